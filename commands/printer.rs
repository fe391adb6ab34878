//! The one place that writes to the terminal: data to stdout, everything else
//! to stderr, one JSON document instead of either where that was asked for.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use fanout::progress::Progress;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::{
    cli::{Color, Global, Output},
    exit::{Outcome, Verdict},
    progress::{Bars, Lines},
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
}

impl Printer {
    /// A printer for these flags and this process's streams.
    pub fn new(global: &Global) -> Self {
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
        }
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
        let mut document = envelope(command, ok);
        match serde_json::to_value(report) {
            Ok(Json::Object(fields)) => document.extend(fields),
            Ok(other) => {
                document.insert("value".to_owned(), other);
            }
            Err(error) => {
                document.insert("ok".to_owned(), Json::Bool(false));
                document.insert("error".to_owned(), Json::String(error.to_string()));
            }
        }
        self.data(&Json::Object(document).to_string());
    }

    /// Prints a failure as JSON where that was asked for; says whether it did.
    pub fn failure(&self, command: &str, error: &Json) -> bool {
        if self.is_json() {
            let mut document = envelope(command, false);
            document.insert("error".to_owned(), error.clone());
            self.data(&Json::Object(document).to_string());
        }
        self.is_json()
    }

    /// Data, to stdout. A reader that went away ends the program: it has seen
    /// enough.
    #[expect(
        clippy::unused_self,
        reason = "stdout is reached through a printer only"
    )]
    pub fn data(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        if written.is_err() {
            std::process::exit(i32::from(crate::exit::BROKEN_PIPE));
        }
    }

    /// Something worth saying that is not data, to stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
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
        eprintln!("{red}error:{reset} {message}");
        if let Some(hint) = hint {
            eprintln!("\n{cyan}hint:{reset} {hint}");
        }
    }

    /// Where long work reports to: bars on a terminal, plain lines elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if self.quiet {
            Arc::new(fanout::progress::Silent)
        } else if self.stderr_terminal {
            Arc::new(Bars::new())
        } else {
            Arc::new(Lines::default())
        }
    }
}

fn envelope(command: &str, ok: bool) -> Map<String, Json> {
    let mut document = Map::new();
    document.insert("schema".to_owned(), format!("fanout.{command}/v1").into());
    document.insert("ok".to_owned(), ok.into());
    document
}
