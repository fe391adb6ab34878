//! A hop of the event: the place and the outcome.

use serde::{Serialize, Serializer};

use crate::sink_kind::SinkKind;

/// A place on the event's path. Serialized as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Kafka,
    Sink(SinkKind),
}

impl Place {
    /// Returns the name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Sink(sink) => sink.name(),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The outcome of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Broken,
    Skipped,
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hop {
    pub place: Place,
    pub outcome: Outcome,
    /// Time from the commit in Postgres until the event was found, in
    /// milliseconds.
    pub millis: Option<f64>,
    /// What was found, or what is missing and why.
    pub evidence: String,
    pub hint: Option<String>,
}
