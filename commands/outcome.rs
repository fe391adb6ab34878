//! The result of a command: its verdict, or an error of the library.

use fanout::failure::{Failure, Kind, chain};
use serde_json::{Value as Json, json};

use crate::hints::Hints;

/// Result of a command.
pub type Outcome = Result<Verdict, CommandError>;

/// Verdict of a command that completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Completed; every check passed.
    Done,
    /// Completed; a check failed.
    CheckFalse,
}

/// Any error of the library, boxed.
#[derive(Debug)]
pub struct CommandError(Box<dyn Failure>);

impl<E: Failure> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl CommandError {
    /// Returns the error and its causes on one line.
    pub fn message(&self) -> String {
        chain(&*self.0)
    }

    /// Returns the remedy, if the error has one.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// Returns the remedy, completed for this invocation.
    pub fn completed_hint(&self, hints: &Hints) -> Option<String> {
        match self.0.structured_hint() {
            Some(hint) => Some(hints.complete(hint)),
            None => self.0.hint().map(|hint| hints.complete_text(&hint)),
        }
    }

    /// Returns the kind of failure, which determines the exit code.
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// Returns the `error` object of the command's document, with the completed
    /// hint.
    pub fn to_json(&self, hint: Option<&str>) -> Json {
        let cause = self.0.source().map(chain);
        json!({
            "code": self.0.code(),
            "message": self.0.to_string(),
            "cause": cause,
            "hint": hint,
        })
    }
}
