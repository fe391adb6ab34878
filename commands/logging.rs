//! Log lines of the commands that go on: to stderr, above the bars where there
//! are any, as JSON where stdout is.

use std::{io, sync::Arc};

use fanout::progress::{Event, Progress};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::{
    hints::Hints,
    printer::Printer,
    streams::Secrets,
    throttle::{Reporter, Throttle},
};

/// Variable that says what is logged, in `tracing`'s own words.
const FILTER: &str = "FANOUT_LOG";

/// Starts logging; the first call counts. Lines that repeat themselves are left
/// out, unless more than the usual is wanted; the reporter says how many.
pub fn start(printer: &Printer, progress: &Arc<dyn Progress>) -> Option<Reporter> {
    let throttle = (printer.verbosity() == 0).then(Throttle::default);
    if let Err(error) = try_start(printer, progress, throttle.clone()) {
        // With `-v` it was started before the command.
        if printer.verbosity() == 0 {
            printer.note(&format!("no log lines: {error}"));
        }
        return None;
    }
    throttle.map(|throttle| throttle.reporter())
}

fn try_start(
    printer: &Printer,
    progress: &Arc<dyn Progress>,
    throttle: Option<Throttle>,
) -> Result<(), TryInitError> {
    let default = match printer.verbosity() {
        _ if printer.is_quiet() => "warn",
        0 => "info",
        1 => "fanout=debug,info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default));
    let format = tracing_subscriber::fmt::layer()
        .with_ansi(printer.stderr_colors())
        .with_target(false)
        // A stderr that is closed has nobody to hear of it.
        .log_internal_errors(false);
    let lines = Addressed(printer.hints().clone(), printer.secrets().clone());
    let format = if printer.is_json() {
        format.json().with_writer(lines).boxed()
    } else if printer.bars() {
        // A note is escaped, and would show the colours' codes.
        let notes = Notes(Arc::clone(progress), lines.0);
        format.with_ansi(false).with_writer(notes).boxed()
    } else {
        format.with_writer(lines).boxed()
    };
    tracing_subscriber::registry()
        .with(format)
        .with(throttle)
        .with(filter)
        .try_init()
}

/// With `-v`, what the library says to itself, for a command that would not say
/// it otherwise.
pub fn verbose(printer: &Printer) {
    if printer.verbosity() > 0 {
        let _none = start(printer, &printer.progress());
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
