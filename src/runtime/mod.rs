//! What all sinks share: the worker of a consumer group, the loop of a partition,
//! retries, dead letters, commits, generations, statistics, `/status` and
//! `/metrics`.
//!
//! A sink turns records into writes of its own kind and reports what became of
//! each record. When to retry, what to dead-letter and what to commit is decided
//! here, once.

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
pub use notes::{MadeUp, Notes};
pub use reporter::Reporter;

pub use crate::source::{
    checks::RECONCILE,
    placeholders::{KnownPlaceholders, PlaceholderError},
};
pub use error::PipelineError;
pub use letter::{Letter, LetterId};
pub use watcher::watch;

use crate::{
    debezium::{Reject, Shape},
    kafka::chunk::Chunk,
    sink_kind::ConsumerGroup,
};

/// Counts by reason. The reasons are few and fixed.
pub type Tally = BTreeMap<&'static str, u64>;

/// A record this sink cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the batch.
    pub index: usize,
    /// Stable `snake_case` name of the reason.
    pub code: &'static str,
    /// One line for people.
    pub detail: String,
    /// What is not of the expected shape, where that says something of the table
    /// or of the connector.
    pub shape: Option<Shape>,
    /// The record before it whose columns were last read well.
    pub after: Option<usize>,
}

impl Rejected {
    /// A record that was not understood. `after` is the record before it whose
    /// columns were last read well.
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

    /// A record that was understood, and that the store does not take.
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

/// What became of a batch that was acknowledged.
#[derive(Debug, Default)]
pub struct Delivery {
    /// So many records from the front are done; the rest waits behind `halt`.
    pub taken: usize,
    pub applied: u64,
    pub ignored: Tally,
    pub rejected: Vec<Rejected>,
    /// Applied records that had columns the program does not know.
    pub extra_fields: u64,
    /// The last record whose columns were read well.
    pub understood: Option<usize>,
    /// The record after those taken stops the sink.
    pub halt: Option<Halt>,
}

impl Delivery {
    /// Takes note of a record whose columns were read well.
    pub fn understand(&mut self, index: usize) {
        self.understood = Some(index);
    }

    /// Takes note of a record that was not understood.
    pub fn reject(&mut self, index: usize, reject: Reject) {
        let rejected = Rejected::undecoded(index, reject, self.understood);
        self.rejected.push(rejected);
    }

    /// Counts a record without effect.
    pub fn ignore(&mut self, reason: &'static str) {
        *self.ignored.entry(reason).or_default() += 1;
    }
}

/// The group, without members, whose commits said up to where history was made
/// up for from the source. Earlier releases wrote it; [`Notes`] took its place.
#[must_use]
pub fn mended_group(group_prefix: &str, group: ConsumerGroup) -> String {
    format!("{}-mended", group.id(group_prefix))
}

/// The group, without members, whose one commit named the topic that a sink was
/// fed from last. Earlier releases wrote it; [`Notes`] took its place.
#[must_use]
pub fn lives_group(group_prefix: &str, group: ConsumerGroup) -> String {
    format!("{}-lives", group.id(group_prefix))
}

/// Where a sink stands that was opened before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// History goes on where it was opened; else it has to be opened again.
    pub same: bool,
    /// It works, and what it holds is not to be relied on before an operator
    /// has done this.
    pub caution: Option<Halt>,
}

impl Standing {
    /// Nothing has changed.
    pub const SAME: Self = Self {
        same: true,
        caution: None,
    };
}

/// The outcome of [`PartitionSink::settle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Nothing is pending.
    Done,
    /// There is more to do; the text tells an operator what is left.
    More(String),
}

/// A sink whose partitions are spread over workers by a consumer group.
pub trait Sink: Send + Sync + 'static {
    /// What holds one partition.
    type Partition: PartitionSink;

    /// Checks the store and loads what is needed before the first record.
    fn open(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes a partition over, where the group is or where it has to begin
    /// again. A position that cannot be trusted halts, or the sink makes up for
    /// it by itself and says so ([`PartitionSink::caution`]).
    fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> impl Future<Output = Result<Self::Partition, Fault>> + Send;

    /// Takes a partition for a bounded replay, beside whoever owns it.
    /// `metadata` is what [`PartitionSink::metadata`] said when the replay
    /// began, where it goes on with one; settled to the end after its last record.
    fn replay(
        &self,
        partition: i32,
        metadata: Option<&str>,
    ) -> impl Future<Output = Result<Self::Partition, Fault>> + Send;

    /// Whether history is still the one that was opened. Asked now and then.
    fn check(&self) -> impl Future<Output = Result<Standing, Fault>> + Send;
}

/// One partition of a [`Sink`]. Its batches come one after the other.
pub trait PartitionSink: Send + Sync + 'static {
    /// Writes a batch and returns when the store has acknowledged it. After a
    /// fault the same batch comes again, with `attempt` one higher.
    fn deliver(
        &mut self,
        batch: &Chunk,
        attempt: u32,
    ) -> impl Future<Output = Result<Delivery, Fault>> + Send;

    /// Does a bounded part of the work that is pending besides the batch; most
    /// sinks have none. A commit need not wait for the rest, because
    /// [`Self::metadata`] says what is still pending. Cancel-safe: the next call
    /// resumes.
    fn settle(&mut self) -> impl Future<Output = Result<Settled, Fault>> + Send {
        future::ready(Ok(Settled::Done))
    }

    /// Resolves when [`Self::settle`] has something to do although no record
    /// arrived; immediately if it has more to do.
    fn owed(&mut self) -> impl Future<Output = ()> + Send {
        future::pending()
    }

    /// Up to which offset the source has made up for what this sink could not
    /// read in the log.
    fn reconciled(&self) -> impl Future<Output = Result<i64, Fault>> + Send {
        future::ready(Ok(0))
    }

    /// Where to begin reading; none for a replay, which is told where.
    fn begin(&self) -> Option<i64> {
        None
    }

    /// The metadata of a commit of `next`.
    fn metadata(&self, next: i64) -> String;

    /// Everything before `next` is committed.
    fn committed(&mut self, next: i64) {
        let _ = next;
    }

    /// Why what the store holds of this partition is not to be relied on yet.
    fn caution(&self) -> Option<Halt> {
        None
    }
}
