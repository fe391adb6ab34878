//! The error that users see, and the interface through which the binary turns any error into an
//! exit code and a message.
//!
//! Modules return [`Error`]. They define an enum only if a caller matches on it.

mod hint;

use std::{error::Error as StdError, fmt};

pub use hint::{Command, Flag, Hint, Part, Word};

/// The kinds of failure that an operator or a CI job has to distinguish. The binary maps each
/// kind to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The work was attempted and failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The machine lacks something, or it is in use: a daemon, a binary, a port, disk space.
    Environment,
    /// Not ready in time. Retrying may help.
    NotReady,
    /// The work was done, and its check failed.
    CheckFalse,
    /// Refused deliberately: locked, not managed by this project, or confirmation (`--yes`)
    /// required.
    Refused,
    /// Stopped by the signal with this number.
    Interrupted(i32),
}

/// An error with a kind, a stable machine-readable code, and a hint.
pub trait Failure: StdError + Send + Sync + 'static {
    /// Returns the kind of failure.
    fn kind(&self) -> Kind;

    /// Returns a stable `snake_case` name for programs, such as `port_taken`.
    fn code(&self) -> &'static str;

    /// Returns a way to fix the problem: usually the next command to run.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Returns the hint as data. If an error has its hint only as text, the binary has to find
    /// the commands in it.
    fn structured_hint(&self) -> Option<&Hint> {
        None
    }
}

/// An error for the user.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    code: &'static str,
    message: String,
    hint: Option<Hint>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Returns an error with this code and message, without a hint and a cause. The message is a
    /// lowercase fragment.
    #[must_use]
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Adds a way to fix the problem.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn code(&self) -> &'static str {
        self.code
    }

    fn hint(&self) -> Option<String> {
        self.hint.as_ref().map(Hint::to_string)
    }

    fn structured_hint(&self) -> Option<&Hint> {
        self.hint.as_ref()
    }
}

/// Returns the error and all of its sources as one line, joined by `: `.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some client crates already include their source.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer failed")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_each_cause_once() {
        let error = Outer(std::io::Error::other("inner reason"));
        assert_eq!(chain(&error), "outer failed: inner reason");
    }

    #[test]
    fn an_error_has_a_message_a_hint_and_a_cause() {
        let error = Error::new(Kind::Environment, "disk", "cannot write the file")
            .with_hint(Hint::from("make room, then: ").command(Command::new("up")))
            .caused_by(std::io::Error::other("no space left"));
        assert_eq!((error.kind(), error.code()), (Kind::Environment, "disk"));
        assert_eq!(chain(&error), "cannot write the file: no space left");
        assert_eq!(error.hint().as_deref(), Some("make room, then: fanout up"));
    }
}
