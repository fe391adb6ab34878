//! Log lines of long-running commands: on stderr, above the progress bars if
//! there are any, and as JSON if stdout is JSON.

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

/// Environment variable with the log filter, in the syntax of `tracing`.
const FILTER: &str = "FANOUT_LOG";

/// Starts logging; only the first call has an effect. Without `-v`, repeated
/// lines are suppressed, and the returned reporter logs how many.
pub fn start(printer: &Printer, progress: &Arc<dyn Progress>) -> Option<Reporter> {
    let throttle = (printer.verbosity() == 0).then(Throttle::default);
    if let Err(error) = try_start(printer, progress, throttle.clone()) {
        // With `-v`, logging was started before the command.
        if printer.verbosity() == 0 {
            printer.note(&format!("cannot start logging: {error}"));
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
        .with_ansi(printer.has_stderr_colors())
        .with_target(false)
        // If stderr is closed, the error cannot be reported.
        .log_internal_errors(false);
    let lines = HintedLines(printer.hints().clone(), printer.secrets().clone());
    let format = if printer.is_json() {
        format.json().with_writer(lines).boxed()
    } else if printer.has_bars() {
        // Notes are escaped, which would print the codes of colours.
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

/// Starts logging if `-v` is given, for commands that do not log otherwise.
pub fn start_if_verbose(printer: &Printer) {
    if printer.verbosity() > 0 {
        let _reporter = start(printer, &printer.progress());
    }
}

/// Writes each line to stderr, with completed hints and without the secrets
/// that a server may have repeated.
#[derive(Clone)]
struct HintedLines(Hints, Secrets);

impl<'a> MakeWriter<'a> for HintedLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for HintedLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = self.0.add_flags(&text);
        io::Write::write_all(&mut io::stderr(), self.1.redact(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut io::stderr())
    }
}

/// Writes each line as a note of the progress, so that the bars stay below it.
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
        let text = self.1.add_flags(text.trim_end());
        self.0.report(Event::Note { text: &text });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
