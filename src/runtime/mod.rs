//! The runtime shared by all sinks: the worker of a consumer group, the partition
//! loop, retries, dead letters, commits, generations, statistics, `/status` and
//! `/metrics`.
//!
//! A sink turns records into writes to its store and reports the outcome of each
//! record. The runtime decides for all sinks when to retry, which records to
//! dead-letter and which offsets to commit.

pub mod barrier;
mod commit;
pub(crate) mod dead_letter;
pub(crate) mod error;
pub(crate) mod fault;
pub(crate) mod generations;
pub(crate) mod group;
mod held;
mod lag;
pub(crate) mod letter;
pub(crate) mod letter_reader;
mod meter;
mod metrics;
mod notes;
pub(crate) mod owned;
pub(crate) mod partition;
pub mod replay;
mod reporter;
pub(crate) mod retry;
pub mod server;
pub(crate) mod shape;
pub(crate) mod shared;
pub mod source;
pub mod stats;
pub mod status;
mod watch;
pub(crate) mod watcher;
pub(super) mod worker_status;

use std::{
    collections::BTreeMap,
    future::{self, Future},
};

pub use commit::{Break, Committed, FORMAT as COMMIT_FORMAT, Noted, Reading, TopicLife, is_ours};
pub use fault::{Fault, Halt};
pub use generations::{Begun, Generation, GenerationLog, Incarnation};
pub use notes::{Backfilled, Notes};
pub use reporter::Reporter;

pub use crate::source::{
    checks::RECONCILE,
    placeholders::{KnownPlaceholders, PlaceholderError},
};
pub use error::PipelineError;
pub use letter::{DeadLetter, DeadLetterId};
pub use watcher::watch;

use crate::{
    debezium::{Reject, Shape},
    kafka::chunk::Chunk,
    sink_kind::ConsumerGroup,
};

/// Counts by reason. The set of reasons is small and fixed.
pub type Tally = BTreeMap<&'static str, u64>;

/// A record that the sink rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Index of the record in the batch.
    pub index: usize,
    /// Stable `snake_case` name of the reason.
    pub code: &'static str,
    /// One line for the operator.
    pub detail: String,
    /// The mismatched part of the record, if the mismatch may concern the table or
    /// the connector as a whole.
    pub shape: Option<Shape>,
    /// Index of the last record before this one whose columns were decoded.
    pub after: Option<usize>,
}

impl Rejected {
    /// Creates a rejection of a record that cannot be decoded. `after` is the index of
    /// the last record before it whose columns were decoded.
    #[must_use]
    pub fn undecoded(index: usize, reject: Reject, after: Option<usize>) -> Self {
        Self {
            index,
            code: reject.code.as_str(),
            detail: reject.detail,
            shape: reject.shape,
            after,
        }
    }

    /// Creates a rejection of a decoded record that the store refuses.
    #[must_use]
    pub fn refused(index: usize, code: &'static str, detail: String) -> Self {
        Self {
            index,
            code,
            detail,
            shape: None,
            after: None,
        }
    }
}

/// Outcome of an acknowledged batch.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Number of processed records at the front of the batch. The others wait for
    /// `halt` to be resolved.
    pub taken: usize,
    pub applied: u64,
    pub ignored: Tally,
    pub rejected: Vec<Rejected>,
    /// Number of applied records with unknown columns.
    pub extra_fields: u64,
    /// Index of the last record whose columns were decoded.
    pub understood: Option<usize>,
    /// The halt caused by the first record that was not processed.
    pub halt: Option<Halt>,
}

impl Delivery {
    /// Records that the columns of the record at `index` were decoded.
    pub fn understand(&mut self, index: usize) {
        self.understood = Some(index);
    }

    /// Rejects a record that cannot be decoded.
    pub fn reject(&mut self, index: usize, reject: Reject) {
        let rejected = Rejected::undecoded(index, reject, self.understood);
        self.rejected.push(rejected);
    }

    /// Counts an ignored record.
    pub fn ignore(&mut self, reason: &'static str) {
        *self.ignored.entry(reason).or_default() += 1;
    }
}

/// Returns the group whose commits had the offsets up to which a sink was backfilled
/// from the source. It has no members. Earlier releases used it; [`Notes`] replaced
/// it.
#[must_use]
pub fn mended_group(group_prefix: &str, group: ConsumerGroup) -> String {
    format!("{}-mended", group.id(group_prefix))
}

/// Returns the group whose only commit named the topic that a sink last consumed. It
/// has no members. Earlier releases used it; [`Notes`] replaced it.
#[must_use]
pub fn lives_group(group_prefix: &str, group: ConsumerGroup) -> String {
    format!("{}-lives", group.id(group_prefix))
}

/// Health of an open sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the generation that the sink was opened for is still current. If not,
    /// the sink has to be reopened.
    pub is_current: bool,
    /// The reason why the stored data is unreliable, with the remedy.
    pub degradation: Option<Halt>,
}

impl Health {
    /// The health of a sink without any change.
    pub const UNCHANGED: Self = Self {
        is_current: true,
        degradation: None,
    };
}

/// The outcome of [`PartitionSink::flush`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlushOutcome {
    /// Nothing is pending.
    Done,
    /// There is more to do. The text describes the remaining work to an operator.
    More(String),
}

/// A sink whose partitions are assigned to workers by a consumer group.
pub trait Sink: Send + Sync + 'static {
    /// One claimed partition.
    type Partition: PartitionSink;

    /// Checks the store and loads everything that is needed before the first record.
    fn open(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Claims an assigned partition at the committed offset, or at an earlier one that
    /// has to be reread. If the offset cannot be trusted, the sink halts, or recovers
    /// automatically and reports a degradation ([`PartitionSink::degradation`]).
    fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> impl Future<Output = Result<Self::Partition, Fault>> + Send;

    /// Opens a partition for a bounded replay, independent of its owner. `metadata` is
    /// the value of [`PartitionSink::metadata`] at the start of the replay, if the
    /// replay is resumed. The replay flushes all pending work after its last record.
    fn replay(
        &self,
        partition: i32,
        metadata: Option<&str>,
    ) -> impl Future<Output = Result<Self::Partition, Fault>> + Send;

    /// Checks whether the opened generation is still current. Called periodically.
    fn check(&self) -> impl Future<Output = Result<Health, Fault>> + Send;
}

/// One partition of a [`Sink`]. Its batches are delivered sequentially.
pub trait PartitionSink: Send + Sync + 'static {
    /// Writes a batch and returns once the store has acknowledged it. After a fault
    /// the same batch is delivered again, with `attempt` increased by one.
    fn deliver(
        &mut self,
        batch: &Chunk,
        attempt: u32,
    ) -> impl Future<Output = Result<Delivery, Fault>> + Send;

    /// Does a bounded part of the pending work besides the batch; most sinks have
    /// none. A commit need not wait for the rest, because [`Self::metadata`] contains
    /// what is still pending. Cancel-safe: the next call resumes.
    fn flush(&mut self) -> impl Future<Output = Result<FlushOutcome, Fault>> + Send {
        future::ready(Ok(FlushOutcome::Done))
    }

    /// Waits until [`Self::flush`] has something to do although no record arrived.
    /// Resolves immediately if it has more to do.
    fn pending(&mut self) -> impl Future<Output = ()> + Send {
        future::pending()
    }

    /// Returns the offset up to which unreadable records were reconciled from the
    /// source.
    fn reconciled(&self) -> impl Future<Output = Result<i64, Fault>> + Send {
        future::ready(Ok(0))
    }

    /// Returns the offset at which to start reading. `None` for a replay, which has
    /// its own start offset.
    fn begin(&self) -> Option<i64> {
        None
    }

    /// Returns the metadata for a commit of `next`.
    fn metadata(&self, next: i64) -> String;

    /// Called after `next` was committed.
    fn committed(&mut self, next: i64) {
        let _ = next;
    }

    /// Returns the reason why the stored data of this partition is unreliable, if it
    /// is.
    fn degradation(&self) -> Option<Halt> {
        None
    }
}
