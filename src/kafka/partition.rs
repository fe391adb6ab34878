//! One partition that this process reads: taking its records, and committing the progress.

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

use super::{chunk::Chunk, member::MemberContext};

/// How long the broker may take to answer a commit. Longer than a broker's restart takes. After
/// this time, librdkafka may have lost the request and would wait for the answer forever, which
/// would also block every later assignment of the consumer.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a seek may take.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a consumer is polled before other conditions are checked.
const SLICE: Duration = Duration::from_millis(100);

/// Maximum size of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
}

/// Reason why taking records ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The chunk has reached its limits.
    Full,
    /// No further records are available at the moment.
    Drained,
    /// The current end of the partition was reached.
    End,
}

/// A partition with its separate queue of fetched records.
pub struct Partition {
    topic: Arc<str>,
    number: i32,
    consumer: Arc<BaseConsumer<MemberContext>>,
    queue: PartitionQueue<MemberContext>,
    arrived: Arc<Notify>,
    fence: CancellationToken,
    /// Set by a seek: records before this offset are skipped.
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
    /// Splits the partition's records off the consumer's common queue. Must happen before the
    /// partition is assigned, so that no record ends up in the common queue.
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

    /// Returns the source topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Returns the partition number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Returns the fence, which is cancelled once the partition no longer belongs to this
    /// process. From then on this process commits nothing for it.
    pub fn fence(&self) -> &CancellationToken {
        &self.fence
    }

    /// Appends the available records to `chunk`, up to the limits. Never waits.
    ///
    /// # Errors
    /// An error of the broker for this partition, for example that the offset is no longer
    /// retained.
    pub fn take(&mut self, chunk: &mut Chunk, limits: Limits) -> Result<Taken, KafkaError> {
        let mut is_at_end = false;
        while chunk.len() < limits.records && chunk.size() < limits.bytes {
            match self.queue.poll(Duration::ZERO) {
                None if is_at_end => return Ok(Taken::End),
                None => return Ok(Taken::Drained),
                Some(Ok(message)) if message.offset() < self.floor => {}
                Some(Ok(message)) => {
                    is_at_end = false;
                    chunk.push(
                        message.offset(),
                        message.timestamp().to_millis().unwrap_or_default(),
                        message.key(),
                        message.payload(),
                    );
                }
                // More records may follow, because the end was determined earlier. Stopping
                // here would leave them in a non-empty queue, and only an empty queue notifies
                // about new records.
                Some(Err(KafkaError::PartitionEOF(_))) => is_at_end = true,
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(Taken::Full)
    }

    /// Waits until records may be available.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Returns the offset of the next record to be taken. At the end of the partition this
    /// offset is after a transaction's marker, unlike the last record's offset + 1.
    pub fn position(&self) -> Result<Option<i64>, KafkaError> {
        let positions = self.consumer.position()?;
        let element = positions.find_partition(&self.topic, self.number);
        Ok(element.and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Continues reading at another offset; 0 is the log's start. Must be called before the
    /// first record is taken.
    pub async fn seek(&mut self, offset: i64) -> Result<(), KafkaError> {
        self.floor = offset;
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.topic));
        let number = self.number;
        let offset = match offset {
            0 => Offset::Beginning,
            offset => Offset::Offset(offset),
        };
        let result = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            loop {
                match consumer.seek(&topic, number, offset, SEEK_TIMEOUT) {
                    // The partition is assigned, but it is fetched only after pending commits
                    // have been answered.
                    Err(error)
                        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State)
                            && started.elapsed() < SEEK_TIMEOUT =>
                    {
                        std::thread::sleep(SLICE);
                    }
                    result => return result,
                }
            }
        });
        result.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Returns the committer of this partition.
    pub fn committer(&self) -> Committer {
        Committer {
            topic: Arc::clone(&self.topic),
            number: self.number,
            consumer: Arc::clone(&self.consumer),
            fence: self.fence.clone(),
        }
    }
}

/// Commits for one partition, independently of the task that takes its records.
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
    /// Commits that all records before `next` are done. Waits for the broker's answer, up to a
    /// timeout.
    ///
    /// # Errors
    /// If the broker refuses the commit, or the partition was released. The latter is checked
    /// here, because the broker would accept the commit if this process had rejoined the group
    /// by then. If there is no answer ([`is_unanswered`]), the commit may or may not have been
    /// made, or may be made later.
    pub async fn commit(&self, next: i64, metadata: &str) -> Result<(), KafkaError> {
        let list = commit_list(&self.topic, self.number, next, metadata)?;
        let (consumer, fence) = (Arc::clone(&self.consumer), self.fence.clone());
        let pending = consumer.context().commits().start();
        run_commit(move || {
            let _pending = pending;
            if fence.is_cancelled() {
                return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::AssignmentLost));
            }
            consumer.commit(&list, CommitMode::Sync)
        })
        .await
    }
}

/// Returns the list that commits all records before `next`.
pub(super) fn commit_list(
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

/// Runs a blocking commit and returns its result, or an error if it takes too long.
pub(super) async fn run_commit(
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
    fn start(self: &Arc<Self>) -> PendingCommit {
        let since = Instant::now();
        self.start_times().push(since);
        PendingCommit {
            commits: Arc::clone(self),
            since,
        }
    }

    /// Returns true if a commit is overdue: the consumer is no longer usable.
    pub(super) fn has_overdue(&self) -> bool {
        let start_times = self.start_times();
        start_times
            .iter()
            .any(|since| since.elapsed() >= COMMIT_TIMEOUT)
    }

    fn has_pending(&self) -> bool {
        !self.start_times().is_empty()
    }

    fn start_times(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit that has not been answered.
#[derive(Debug)]
struct PendingCommit {
    commits: Arc<Commits>,
    since: Instant,
}

impl Drop for PendingCommit {
    fn drop(&mut self) {
        let mut start_times = self.commits.start_times();
        if let Some(index) = start_times.iter().position(|since| *since == self.since) {
            start_times.swap_remove(index);
        }
    }
}

/// Closes a consumer with unanswered commits. Dropping the consumer would close it too, but the
/// tasks that wait for the answers keep it alive. Blocks for a limited time.
pub(super) fn close_if_pending(consumer: &BaseConsumer<MemberContext>) {
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
    if !consumer.context().commits().has_pending() {
        return;
    }
    if let Err(error) = consumer.close_queue() {
        tracing::debug!(%error, "cannot close a consumer");
    }
    let started = Instant::now();
    while !consumer.closed() && started.elapsed() < CLOSE_TIMEOUT {
        consumer.poll(SLICE);
    }
}

/// Returns true if a commit was not answered in time.
#[must_use]
pub fn is_unanswered(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// Returns true if a commit was refused because the partition was revoked. During a rebalance
/// commits are refused as well, but they can be retried, because a partition that stays with
/// its member is not reassigned.
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

/// Returns true if the broker no longer has the requested offset.
#[must_use]
pub fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error
        .rdkafka_error_code()
        .is_some_and(|code| matches!(code, Code::OffsetOutOfRange | Code::AutoOffsetReset))
}

/// Polls a consumer's own events: rebalances and errors. The owners of the partitions poll
/// their queues. Adds `servers` again if the consumer lost all of its brokers. Blocks until
/// `stop` returns true.
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
            // Each partition is split off before it is assigned.
            Some(Ok(message)) => fault(KafkaError::Subscription(format!(
                "record {}/{}@{} arrived in the wrong queue",
                message.topic(),
                message.partition(),
                message.offset()
            ))),
        }
    }
}
