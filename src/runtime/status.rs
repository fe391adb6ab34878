//! The document that a running pipeline serves at `GET /status` and that `fanout
//! status` reads. Plain data, shared by both sides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::Halt;
pub use crate::source::checks::Standing;

/// Status of a running pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Format of this document: 1.
    pub format: u16,
    pub version: String,
    pub project: String,
    pub pid: u32,
    /// Milliseconds since the epoch.
    pub started_ms: i64,
    /// Latest known state of the source.
    #[serde(default)]
    pub source: Standing,
    pub sinks: Vec<SinkStatus>,
}

/// Status of one sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    pub name: String,
    pub state: SinkState,
    /// Current activity, or the thing that the sink waits for, if it adds something
    /// to `state`.
    pub detail: Option<String>,
    /// Records between the committed offsets and the end of the log, over the
    /// partitions of this worker. `None` until the end offsets are read. 0 if and
    /// only if everything is committed.
    pub lag: Option<u64>,
    /// Whether `lag` is an estimate. Some offsets are transaction markers, or were
    /// compacted away.
    #[serde(default)]
    pub lag_is_estimate: bool,
    /// Records processed per second, over the last few seconds.
    pub rate_per_second: f64,
    /// Time of the last acknowledged write, in milliseconds since the epoch.
    pub last_write_ms: Option<i64>,
    /// Records applied since the start.
    pub applied: u64,
    /// Records ignored since the start, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Records dead-lettered since the start, by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Applied records that had unknown columns.
    pub extra_fields: u64,
    /// Failed attempts since the start.
    pub retries: u64,
    pub halt: Option<Halt>,
    /// The reason why the stored data is unreliable although the sink works.
    #[serde(default, rename = "caution")]
    pub degradation: Option<Halt>,
    pub partitions: Vec<PartitionStatus>,
}

impl SinkStatus {
    /// Returns the texts that may contain messages of servers.
    pub(crate) fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let halts = [self.halt.as_mut(), self.degradation.as_mut()];
        let halts = halts.into_iter().flatten();
        let halts = halts.flat_map(|halt| [&mut halt.reason, &mut halt.remedy]);
        self.detail.iter_mut().chain(halts)
    }
}

/// State of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// Connecting, loading, warming up.
    Starting,
    Running,
    /// Another worker publishes the board.
    Standby,
    /// Writes to the store fail and are retried.
    Retrying,
    /// Stopped on purpose until an operator fixes the cause.
    Halted,
    Stopped,
}

/// Progress of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    /// Committed offset: the next one to process.
    pub committed: Option<i64>,
    /// Last known end offset of the partition.
    pub end: Option<i64>,
}
