//! One partition in this process's hands: taking its records, committing how
//! far they are done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::member::MemberContext;
use crate::chunk::Chunk;

/// How long the broker may take to answer a commit. It outlasts a broker's
/// restart; longer than that, librdkafka may have lost it, and would then wait
/// for its answer for good, with it every later assignment of the consumer.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the consumer may take to go elsewhere.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a consumer is served before anything else is looked at.
const SLICE: Duration = Duration::from_millis(100);

/// How much to take at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
}

/// Why taking ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The chunk is as full as it may be.
    Full,
    /// Nothing more is here at the moment.
    Drained,
    /// The end of the partition, as of now.
    End,
}

/// A partition's own queue of fetched records.
pub struct Partition {
    topic: Arc<str>,
    number: i32,
    consumer: Arc<BaseConsumer<MemberContext>>,
    queue: PartitionQueue<MemberContext>,
    arrived: Arc<Notify>,
    fence: CancellationToken,
    /// Set by a seek: what stands before is not taken.
    floor: i64,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Partition")
            .field("topic", &self.topic)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Partition {
    /// Takes the partition's records out of the consumer's common queue. Has to
    /// happen before the partition is assigned, so that none goes astray.
    pub(super) fn split(
        consumer: &Arc<BaseConsumer<MemberContext>>,
        topic: &Arc<str>,
        number: i32,
    ) -> Result<Self, KafkaError> {
        let mut queue = consumer
            .split_partition_queue(topic, number)
            .ok_or(KafkaError::Subscription(format!("{topic}/{number}")))?;
        let arrived = Arc::new(Notify::new());
        let notify = Arc::clone(&arrived);
        queue.set_nonempty_callback(move || notify.notify_one());
        Ok(Self {
            topic: Arc::clone(topic),
            number,
            consumer: Arc::clone(consumer),
            queue,
            arrived,
            fence: CancellationToken::new(),
            floor: 0,
        })
    }

    /// Source topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Partition number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Cancelled once the partition is no longer this process's: from then on
    /// nothing is committed for it from here.
    pub fn fence(&self) -> &CancellationToken {
        &self.fence
    }

    /// Copies what is there to the end of `chunk`, up to the limits, and never
    /// waits.
    ///
    /// # Errors
    /// What the broker has to say of this partition, for instance that the
    /// offset is no longer retained.
    pub fn take(&mut self, chunk: &mut Chunk, limits: Limits) -> Result<Taken, KafkaError> {
        let mut at_end = false;
        while chunk.len() < limits.records && chunk.size() < limits.bytes {
            match self.queue.poll(Duration::ZERO) {
                None if at_end => return Ok(Taken::End),
                None => return Ok(Taken::Drained),
                Some(Ok(message)) if message.offset() < self.floor => {}
                Some(Ok(message)) => {
                    at_end = false;
                    chunk.push(
                        message.offset(),
                        message.timestamp().to_millis().unwrap_or_default(),
                        message.key(),
                        message.payload(),
                    );
                }
                // Records may stand behind it: it was the end when it was
                // said. To stop here would leave them in a queue that is not
                // empty, and only an empty one tells of what arrives.
                Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(Taken::Full)
    }

    /// Waits until something may be there.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// The offset of the next record to be taken. At the end of the partition
    /// this is past a transaction's marker, where the last record's offset + 1
    /// is not.
    pub fn position(&self) -> Result<Option<i64>, KafkaError> {
        let positions = self.consumer.position()?;
        let element = positions.find_partition(&self.topic, self.number);
        Ok(element.and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Goes on reading at another offset; 0 is the log's start. Before the
    /// first record is taken.
    pub async fn seek(&mut self, offset: i64) -> Result<(), KafkaError> {
        self.floor = offset;
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.topic));
        let number = self.number;
        let offset = match offset {
            0 => Offset::Beginning,
            offset => Offset::Offset(offset),
        };
        let sought = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            loop {
                match consumer.seek(&topic, number, offset, SEEK_TIMEOUT) {
                    // It is assigned, and fetched only when commits that are on
                    // their way have been answered.
                    Err(error)
                        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State)
                            && begun.elapsed() < SEEK_TIMEOUT =>
                    {
                        std::thread::sleep(SLICE);
                    }
                    sought => return sought,
                }
            }
        });
        sought.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// What commits for this partition.
    pub fn committer(&self) -> Committer {
        Committer {
            topic: Arc::clone(&self.topic),
            number: self.number,
            consumer: Arc::clone(&self.consumer),
            fence: self.fence.clone(),
        }
    }
}

/// Commits for one partition, apart from whoever takes its records.
#[derive(Clone)]
pub struct Committer {
    topic: Arc<str>,
    number: i32,
    consumer: Arc<BaseConsumer<MemberContext>>,
    fence: CancellationToken,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Committer")
            .field("topic", &self.topic)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Committer {
    /// Commits that everything before `next` is done. Waits for the broker, for
    /// a while.
    ///
    /// # Errors
    /// When the broker refuses it, or the partition has been let go: the broker
    /// would not refuse that, where this process is a member again by then. When
    /// there is no answer ([`is_unanswered`]): it may or may not be done, then
    /// or later.
    pub async fn commit(&self, next: i64, metadata: &str) -> Result<(), KafkaError> {
        let list = commit_of(&self.topic, self.number, next, metadata)?;
        let (consumer, fence) = (Arc::clone(&self.consumer), self.fence.clone());
        let pending = consumer.context().commits().begin();
        answered(move || {
            let _pending = pending;
            if fence.is_cancelled() {
                return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::AssignmentLost));
            }
            consumer.commit(&list, CommitMode::Sync)
        })
        .await
    }
}

/// What commits that everything before `next` is done.
pub(super) fn commit_of(
    topic: &str,
    partition: i32,
    next: i64,
    metadata: &str,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(next))?;
    if let Some(mut element) = list.find_partition(topic, partition) {
        element.set_metadata(metadata);
    }
    Ok(list)
}

/// The answer to a commit, which blocks, where it comes in time.
pub(super) async fn answered(
    commit: impl FnOnce() -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), KafkaError> {
    let committed = tokio::task::spawn_blocking(commit);
    match timeout(COMMIT_TIMEOUT, committed).await {
        Ok(joined) => joined.unwrap_or(Err(KafkaError::Canceled)),
        Err(_) => Err(KafkaError::ConsumerCommit(
            RDKafkaErrorCode::OperationTimedOut,
        )),
    }
}

/// Commits of a consumer that have not been answered.
#[derive(Debug, Default)]
pub(super) struct Commits(Mutex<Vec<Instant>>);

impl Commits {
    fn begin(self: &Arc<Self>) -> Pending {
        let since = Instant::now();
        self.since().push(since);
        Pending {
            commits: Arc::clone(self),
            since,
        }
    }

    /// Whether one is overdue: the consumer is of no use any more.
    pub(super) fn are_stuck(&self) -> bool {
        let since = self.since();
        since.iter().any(|since| since.elapsed() >= COMMIT_TIMEOUT)
    }

    fn are_pending(&self) -> bool {
        !self.since().is_empty()
    }

    fn since(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit, until it is answered.
#[derive(Debug)]
struct Pending {
    commits: Arc<Commits>,
    since: Instant,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut all = self.commits.since();
        if let Some(at) = all.iter().position(|since| *since == self.since) {
            all.swap_remove(at);
        }
    }
}

/// Closes a consumer whose commits have not all been answered. To drop it would
/// close it too, but whoever waits for the answer keeps it. Blocking, for a
/// while.
pub(super) fn close_if_pending(consumer: &BaseConsumer<MemberContext>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    if !consumer.context().commits().are_pending() {
        return;
    }
    if let Err(error) = consumer.close_queue() {
        tracing::debug!(%error, "a consumer cannot be closed");
    }
    let begun = Instant::now();
    while !consumer.closed() && begun.elapsed() < PATIENCE {
        consumer.poll(SLICE);
    }
}

/// Whether a commit has not been answered in time.
#[must_use]
pub fn is_unanswered(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// Whether a commit was refused because the partition is no longer ours. While
/// the group rebalances, a commit is refused too, and may be tried again: what
/// stays ours is not assigned anew.
#[must_use]
pub fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            Code::UnknownMemberId | Code::AssignmentLost | Code::FencedInstanceId
        )
    })
}

/// Whether the broker no longer has the offset that was asked for.
#[must_use]
pub fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error
        .rdkafka_error_code()
        .is_some_and(|code| matches!(code, Code::OffsetOutOfRange | Code::AutoOffsetReset))
}

/// Keeps a consumer's own events served: rebalances, errors. Partitions' own
/// queues are served by their owners. A consumer that has lost its brokers is
/// given `servers` again. Blocking; returns when `stop` says so.
pub(super) fn serve(
    consumer: &BaseConsumer<MemberContext>,
    servers: &str,
    mut stop: impl FnMut() -> bool,
    mut fault: impl FnMut(KafkaError),
) {
    while !stop() {
        let brokers = consumer.context().brokers();
        brokers.restore(consumer.client(), servers);
        match consumer.poll(SLICE) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => fault(error),
            // Each partition was split off before it was assigned.
            Some(Ok(message)) => fault(KafkaError::Subscription(format!(
                "record {}/{}@{} went astray",
                message.topic(),
                message.partition(),
                message.offset()
            ))),
        }
    }
}
