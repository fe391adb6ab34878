//! What a command returns: its verdict, or an error of the library.

use fanout::failure::{Failure, Kind, chain};
use serde_json::{Value as Json, json};

/// What a command returns: whether all it checked holds.
pub type Outcome = Result<Verdict, CommandError>;

/// The end of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done, and true.
    Done,
    /// Done, and something that was checked is false.
    CheckFalse,
}

/// Any error of the library, boxed with what it can say of itself.
#[derive(Debug)]
pub struct CommandError(Box<dyn Failure>);

impl<E: Failure> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl CommandError {
    /// The error and its causes on one line.
    pub fn message(&self) -> String {
        chain(&*self.0)
    }

    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// What the exit code follows from.
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// The `error` of the command's document, with the hint as it is typed
    /// after this call.
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
