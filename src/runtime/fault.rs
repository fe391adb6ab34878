//! Faults of a sink: transient ones, and halts that need an operator.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure as _, chain},
    source::placeholders::PlaceholderError,
};

/// A reason why a sink is halted or degraded, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Stable `snake_case` name of the cause.
    pub code: String,
    pub reason: String,
    /// The next command to run, or the thing to change.
    pub remedy: String,
}

/// A reason why a batch was not acknowledged.
#[derive(Debug)]
pub enum Fault {
    /// A transient fault: the same batch is retried later.
    Retry {
        reason: String,
        /// Delay requested by the store, if any.
        after: Option<Duration>,
    },
    /// A permanent fault: an operator has to fix something.
    Halt(Halt),
}

impl Fault {
    /// Creates a transient fault without a requested delay.
    pub fn retry(reason: impl ToString) -> Self {
        Self::Retry {
            reason: reason.to_string(),
            after: None,
        }
    }

    /// Creates a halt.
    pub fn halt(code: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Halt(Halt {
            code: code.to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
        })
    }
}

impl From<PlaceholderError> for Fault {
    fn from(error: PlaceholderError) -> Self {
        let reason = chain(&error);
        match error {
            PlaceholderError::Kafka(_) => Self::retry(reason),
            PlaceholderError::Document { .. } => {
                let remedy = error.hint().unwrap_or_default();
                Self::halt(error.code(), reason, remedy)
            }
        }
    }
}
