//! Log lines of the commands that go on: to stderr, above the bars where there
//! are any, as JSON where stdout is.

use std::{io, sync::Arc};

use fanout::progress::{Event, Progress};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    hints::Hints,
    printer::{Printer, Secrets},
};

/// Variable that says what is logged, in `tracing`'s own words.
const FILTER: &str = "FANOUT_LOG";

/// Starts logging; the first call counts.
pub fn start(printer: &Printer, progress: &Arc<dyn Progress>) {
    let default = match printer.verbosity() {
        _ if printer.is_quiet() => "warn",
        0 => "info",
        1 => "fanout=debug,info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(printer.stderr_colors())
        .with_target(false);
    let lines = Addressed(printer.hints().clone(), printer.secrets().clone());
    let started = if printer.is_json() {
        builder.json().with_writer(lines).try_init()
    } else if printer.bars() {
        // A note is escaped, and would show the colours' codes.
        let notes = Notes(Arc::clone(progress), lines.0);
        builder.with_ansi(false).with_writer(notes).try_init()
    } else {
        builder.with_writer(lines).try_init()
    };
    // The first call counts: with `-v` that was before the command.
    if let Err(error) = started
        && printer.verbosity() == 0
    {
        printer.note(&format!("no log lines: {error}"));
    }
}

/// With `-v`, what the library says to itself, for a command that would not say
/// it otherwise.
pub fn verbose(printer: &Printer) {
    if printer.verbosity() > 0 {
        start(printer, &printer.progress());
    }
}

/// Writes each line to stderr, its remedies typed for this call and without the
/// secrets that a server may have repeated.
#[derive(Clone)]
struct Addressed(Hints, Secrets);

impl<'a> MakeWriter<'a> for Addressed {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for Addressed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = self.0.address(&text);
        io::Write::write_all(&mut io::stderr(), self.1.redact(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut io::stderr())
    }
}

/// Writes each line as a note of the progress, so that bars stay below.
#[derive(Clone)]
struct Notes(Arc<dyn Progress>, Hints);

impl<'a> MakeWriter<'a> for Notes {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for Notes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = self.1.address(text.trim_end());
        self.0.report(Event::Note { text: &text });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
