//! Decides what is shown: data on stdout, everything else on stderr, one JSON
//! document instead of either where that was asked for.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use fanout::{config::Settings, escape::escape_lines, progress::Progress};
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

/// Decides, from the global flags and from what the streams are, what is shown.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag or a fact of a stream"
)]
pub struct Printer {
    output: Output,
    quiet: bool,
    verbose: u8,
    stdout_colors: bool,
    stderr_colors: bool,
    stderr_terminal: bool,
    hints: Hints,
    /// Of the settings, once they are loaded.
    secrets: Secrets,
    /// Data is printed as it is.
    verbatim: AtomicBool,
    /// Why stdout takes no more.
    closed: OnceLock<io::Error>,
    /// Cancelled when stdout takes no more: what goes on has nobody to tell.
    stop: CancellationToken,
}

/// Fields of documents that hold something to type.
const HINTS: [&str; 3] = ["hint", "remedy", "fix"];

impl Printer {
    /// A printer for these flags and this process's streams. `stop` is
    /// cancelled when stdout takes no more.
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
            hints: Hints::of(global),
            secrets: Secrets::default(),
            verbatim: AtomicBool::new(false),
            closed: OnceLock::new(),
            stop,
        }
    }

    /// Hides the secrets of these settings in all output. What fanout writes
    /// itself masks them already; this is for servers that repeat what they were
    /// sent.
    pub fn hide(&self, settings: &Settings) {
        self.secrets.hide(settings.redactor().distinctive());
    }

    /// The secrets that are hidden.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Prints data as it is from here on: stored records, or secrets that were
    /// asked for.
    pub fn print_verbatim(&self) {
        self.verbatim.store(true, Ordering::Relaxed);
    }

    /// What turns a hint into one for this call.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// A hint as it is typed after this call.
    pub fn hint(&self, hint: &str) -> String {
        self.hints.address(hint)
    }

    /// Why stdout took no more, where that was not its reader's wish.
    pub fn lost(&self) -> Option<&io::Error> {
        let closed = self.closed.get();
        closed.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Whether stdout holds JSON.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether stdout may carry escape codes.
    pub fn colors(&self) -> bool {
        self.stdout_colors && !self.is_json()
    }

    /// Whether stderr may carry escape codes.
    pub fn stderr_colors(&self) -> bool {
        self.stderr_colors
    }

    /// Whether progress is shown as bars.
    pub fn bars(&self) -> bool {
        self.stderr_terminal && !self.quiet
    }

    /// Whether only what went wrong is to be said.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// How often `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// Ends a command: one JSON document of `report`'s fields, or the text that
    /// `human` makes.
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

    /// One JSON object on a line of its own, for commands that go on.
    pub fn document<T: Serialize>(&self, command: &str, ok: bool, report: &T) {
        let document = match serde_json::to_value(report) {
            Ok(Json::Object(fields)) => documents::of(command, ok, fields, Json::Null),
            Ok(other) => {
                let fields = Map::from_iter([("value".to_owned(), other)]);
                documents::of(command, ok, fields, Json::Null)
            }
            Err(error) => {
                let error = Json::String(error.to_string());
                documents::of(command, false, Map::new(), error)
            }
        };
        self.object(document);
    }

    /// Prints a failure as JSON where that was asked for; says whether it did.
    pub fn failure(&self, command: &str, error: &Json) -> bool {
        if self.is_json() {
            self.object(documents::of(command, false, Map::new(), error.clone()));
        }
        self.is_json()
    }

    fn object(&self, document: Map<String, Json>) {
        let mut document = Json::Object(document);
        self.address(&mut document);
        if !self.verbatim.load(Ordering::Relaxed) {
            self.secrets.redact_document(&mut document);
        }
        self.data(&document.to_string());
    }

    /// Makes every hint in a document one that is typed after this call.
    fn address(&self, document: &mut Json) {
        match document {
            Json::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Json::String(text) if HINTS.contains(&name.as_str()) => {
                            *text = self.hint(text);
                        }
                        other => self.address(other),
                    }
                }
            }
            Json::Array(values) => values.iter_mut().for_each(|value| self.address(value)),
            _ => {}
        }
    }

    /// Data, to stdout. A reader that went away has seen enough: the command
    /// ends as it would have.
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
            // Only the first reason is of use.
            let _ = self.closed.set(error);
            self.stop.cancel();
        }
    }

    /// Something worth saying that is not data, to stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    fn say(&self, text: &str) {
        say(&self.secrets.redact(text));
    }

    /// What has to be read before something is destroyed, to stderr, however
    /// little was to be said.
    pub fn warn(&self, text: &str) {
        self.say(text);
    }

    /// A question, on the line that its answer is typed on.
    #[expect(
        clippy::unused_self,
        reason = "stderr is reached through a printer only"
    )]
    pub fn ask(&self, question: &str) {
        let mut stderr = io::stderr().lock();
        // Where the terminal went away nobody answers either.
        let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
    }

    /// An error and what mends it.
    pub fn error(&self, message: &str, hint: Option<&str>) {
        let (red, cyan, reset) = if self.stderr_colors {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        self.say(&format!("{red}error:{reset} {}", escape_lines(message)));
        if let Some(hint) = hint {
            let hint = escape_lines(&self.hint(hint));
            self.say(&format!("\n{cyan}hint:{reset} {hint}"));
        }
    }

    /// Where long work reports to: bars on a terminal, plain lines elsewhere.
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
