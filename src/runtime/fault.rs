//! Why a batch was not acknowledged, and why a sink has stopped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure as _, chain},
    source::placeholders::PlaceholderError,
};

/// Why a sink has stopped, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Stable `snake_case` name of the cause.
    pub code: String,
    pub reason: String,
    /// The next command to type, or what to change.
    pub remedy: String,
}

/// Why a batch was not acknowledged.
#[derive(Debug)]
pub enum Fault {
    /// Transient: the same batch, again, later.
    Retry {
        reason: String,
        /// What the store asked for, if it did.
        after: Option<Duration>,
    },
    /// No use in trying: an operator has to mend something.
    Halt(Halt),
}

impl Fault {
    /// A transient fault without a wish of its own.
    pub fn retry(reason: impl ToString) -> Self {
        Self::Retry {
            reason: reason.to_string(),
            after: None,
        }
    }

    /// A halt with its remedy.
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
