//! What a running pipeline says of itself at `GET /status`, and what `fanout
//! status` reads back: plain data, the same on both sides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::Halt;
pub use crate::source::checks::Standing;

/// A running pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Format of this document: 1.
    pub format: u16,
    pub version: String,
    pub project: String,
    pub pid: u32,
    /// Milliseconds since the epoch.
    pub started_ms: i64,
    /// What is known of the source.
    #[serde(default)]
    pub source: Standing,
    pub sinks: Vec<SinkStatus>,
}

/// One sink of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    pub name: String,
    pub state: SinkState,
    /// What it is busy with, or waits for, where that says more than `state`.
    pub detail: Option<String>,
    /// Records between what is committed and the end of the log, over this
    /// worker's partitions; unknown before the first look. 0 exactly where
    /// everything is committed.
    pub lag: Option<u64>,
    /// Whether `lag` is estimated: of the offsets between the two some are the
    /// markers of transactions, or were compacted away.
    #[serde(default)]
    pub lag_is_estimate: bool,
    /// Records done in a second, over the last few.
    pub rate_per_second: f64,
    /// When the sink last acknowledged a write, milliseconds since the epoch.
    pub last_write_ms: Option<i64>,
    /// Records applied since the start.
    pub applied: u64,
    /// Records ignored since the start, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Records dead-lettered since the start, by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Applied records that had columns the program does not know.
    pub extra_fields: u64,
    /// Failed tries since the start.
    pub retries: u64,
    pub halt: Option<Halt>,
    /// It works, and what it holds is not to be relied on before this is done.
    #[serde(default)]
    pub caution: Option<Halt>,
    pub partitions: Vec<PartitionStatus>,
}

impl SinkStatus {
    /// Texts that servers may have had a part in.
    pub(crate) fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let halts = [self.halt.as_mut(), self.caution.as_mut()];
        let halts = halts.into_iter().flatten();
        let halts = halts.flat_map(|halt| [&mut halt.reason, &mut halt.remedy]);
        self.detail.iter_mut().chain(halts)
    }
}

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// Connecting, loading, warming up.
    Starting,
    Running,
    /// Another worker has the board.
    Standby,
    /// The store does not take writes; trying again.
    Retrying,
    /// Stopped on purpose until an operator mends the cause.
    Halted,
    Stopped,
}

/// How far one partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    /// Next offset to be done, as committed.
    pub committed: Option<i64>,
    /// End of the partition when last read.
    pub end: Option<i64>,
}
