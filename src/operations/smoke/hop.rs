//! A hop of the event: where, and how it went.

use serde::Serialize;

use crate::sink_kind::SinkKind;

/// A place the event comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Kafka,
    ClickHouse,
    Redis,
    Http,
}

impl Place {
    /// Where the event ends in a sink.
    pub(super) fn of(sink: SinkKind) -> Self {
        match sink {
            SinkKind::Redis => Self::Redis,
            SinkKind::ClickHouse => Self::ClickHouse,
            SinkKind::Http => Self::Http,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Redis => "redis",
            Self::Http => "http",
        }
    }
}

/// How it went.
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
    /// From the commit in Postgres until it was seen.
    pub millis: Option<f64>,
    /// What was seen, or what was not and why.
    pub evidence: String,
    pub hint: Option<String>,
}
