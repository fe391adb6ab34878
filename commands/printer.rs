//! Decides what is shown: data on stdout and everything else on stderr, or one
//! JSON document if requested.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use fanout::{config::Settings, progress::Progress, text::escape::escape_lines};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use tokio_util::sync::CancellationToken;

use crate::{
    documents,
    global::{Color, Global, Output},
    hints::Hints,
    outcome::{Outcome, Verdict},
    progress::{Bars, Lines, Redacted},
    streams::{Secrets, say},
};

/// Decides what is shown, from the global flags and the kinds of the streams.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag or a property of a stream"
)]
pub struct Printer {
    output: Output,
    quiet: bool,
    verbose: u8,
    stdout_colors: bool,
    stderr_colors: bool,
    stderr_terminal: bool,
    hints: Hints,
    /// Secrets of the settings, once they are loaded.
    secrets: Secrets,
    /// Whether data is printed without hiding secrets.
    verbatim: AtomicBool,
    /// The error that closed stdout.
    closed: OnceLock<io::Error>,
    /// Cancelled if stdout fails, because nobody reads the output of the
    /// command any longer.
    stop: CancellationToken,
}

/// Fields of documents that hold a command to run.
const HINTS: [&str; 3] = ["hint", "remedy", "fix"];

impl Printer {
    /// Creates a printer for these flags and the streams of this process.
    /// `stop` is cancelled if stdout fails.
    pub fn new(global: &Global, stop: CancellationToken) -> Self {
        let stderr_terminal = io::stderr().is_terminal();
        let colors = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Self {
            output: global.output,
            quiet: global.quiet,
            verbose: global.verbose,
            stdout_colors: colors(io::stdout().is_terminal()),
            stderr_colors: colors(stderr_terminal),
            stderr_terminal,
            hints: Hints::new(global),
            secrets: Secrets::default(),
            verbatim: AtomicBool::new(false),
            closed: OnceLock::new(),
            stop,
        }
    }

    /// Hides the secrets of these settings in all output. Fanout's own messages
    /// mask secrets already; this covers servers that repeat them.
    pub fn hide(&self, settings: &Settings) {
        self.secrets.hide(settings.redactor().distinctive());
    }

    /// Returns the secrets that are hidden.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Prints all further data unchanged: stored records, or secrets that the
    /// user asked to see.
    pub fn print_verbatim(&self) {
        self.verbatim.store(true, Ordering::Relaxed);
    }

    /// Returns the hints of this invocation.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Returns a hint with the flags of this invocation added.
    pub fn hint(&self, hint: &str) -> String {
        self.hints.add_flags(hint)
    }

    /// Returns the error of writing to stdout, except if the reader closed the
    /// pipe.
    pub fn write_error(&self) -> Option<&io::Error> {
        let closed = self.closed.get();
        closed.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Returns true if stdout is JSON.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Returns true if stdout may contain escape codes.
    pub fn has_colors(&self) -> bool {
        self.stdout_colors && !self.is_json()
    }

    /// Returns true if stderr may contain escape codes.
    pub fn has_stderr_colors(&self) -> bool {
        self.stderr_colors
    }

    /// Returns true if progress is shown as bars.
    pub fn has_bars(&self) -> bool {
        self.stderr_terminal && !self.quiet
    }

    /// Returns true if only problems are to be reported.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Returns how often `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// Prints the result of a command: one JSON document with the fields of
    /// `report`, or the text that `human` returns.
    ///
    /// # Errors
    /// None today; the type lets a command end with this call.
    #[expect(clippy::unnecessary_wraps, reason = "a command ends with this call")]
    pub fn conclude<T: Serialize>(
        &self,
        command: &str,
        verdict: Verdict,
        report: &T,
        human: impl FnOnce() -> String,
    ) -> Outcome {
        if self.is_json() {
            self.document(command, verdict == Verdict::Done, report);
        } else {
            let text = human();
            if !text.is_empty() {
                self.data(text.trim_end_matches('\n'));
            }
        }
        Ok(verdict)
    }

    /// Prints one JSON object on its own line, for commands that print several.
    pub fn document<T: Serialize>(&self, command: &str, ok: bool, report: &T) {
        let document = match serde_json::to_value(report) {
            Ok(Json::Object(fields)) => documents::build(command, ok, fields, Json::Null),
            Ok(value) => {
                let fields = Map::from_iter([("value".to_owned(), value)]);
                documents::build(command, ok, fields, Json::Null)
            }
            Err(error) => {
                let error = Json::String(error.to_string());
                documents::build(command, false, Map::new(), error)
            }
        };
        self.object(document);
    }

    /// Prints a failure as JSON, if JSON was requested. Returns true if it did.
    pub fn failure(&self, command: &str, error: &Json) -> bool {
        if self.is_json() {
            self.object(documents::build(command, false, Map::new(), error.clone()));
        }
        self.is_json()
    }

    fn object(&self, document: Map<String, Json>) {
        let mut document = Json::Object(document);
        self.complete_hints(&mut document);
        if !self.verbatim.load(Ordering::Relaxed) {
            self.secrets.redact_document(&mut document);
        }
        self.data(&document.to_string());
    }

    /// Adds the flags of this invocation to every hint in a document.
    fn complete_hints(&self, document: &mut Json) {
        match document {
            Json::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Json::String(text) if HINTS.contains(&name.as_str()) => {
                            *text = self.hint(text);
                        }
                        other => self.complete_hints(other),
                    }
                }
            }
            Json::Array(values) => values
                .iter_mut()
                .for_each(|value| self.complete_hints(value)),
            _ => {}
        }
    }

    /// Prints data to stdout. If the reader has closed the pipe, the output is
    /// dropped and the command ends normally.
    pub fn data(&self, text: &str) {
        if self.closed.get().is_some() {
            return;
        }
        let text = if self.verbatim.load(Ordering::Relaxed) {
            Cow::Borrowed(text)
        } else {
            self.secrets.redact(text)
        };
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        if let Err(error) = written {
            // Only the first error is kept.
            let _ = self.closed.set(error);
            self.stop.cancel();
        }
    }

    /// Prints a message that is not data to stderr, unless `--quiet` is given.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    fn say(&self, text: &str) {
        say(&self.secrets.redact(text));
    }

    /// Prints a warning to stderr, even with `--quiet`: the user must see what
    /// they confirm.
    pub fn warn(&self, text: &str) {
        self.say(text);
    }

    /// Prints a question to stderr, on the line where the answer is typed.
    #[expect(clippy::unused_self, reason = "stderr is only used through a printer")]
    pub fn ask(&self, question: &str) {
        let mut stderr = io::stderr().lock();
        // If the terminal is closed, there is no answer either.
        let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
    }

    /// Prints an error and its completed remedy.
    pub fn error(&self, message: &str, hint: Option<&str>) {
        let (red, cyan, reset) = if self.stderr_colors {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        self.say(&format!("{red}error:{reset} {}", escape_lines(message)));
        if let Some(hint) = hint {
            let hint = escape_lines(hint);
            self.say(&format!("\n{cyan}hint:{reset} {hint}"));
        }
    }

    /// Returns the display for long work: bars on a terminal, plain lines
    /// elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        let secrets = self.secrets.clone();
        if self.quiet {
            Arc::new(fanout::progress::Silent)
        } else if self.stderr_terminal {
            Arc::new(Redacted::new(Bars::new(), secrets))
        } else {
            Arc::new(Redacted::new(Lines::default(), secrets))
        }
    }
}
