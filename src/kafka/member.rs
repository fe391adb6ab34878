//! Membership of a consumer group: the partitions that are assigned to this process, and their
//! start offsets.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    statistics::Statistics,
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio_util::sync::CancellationToken;

use super::{
    Kafka, Partition,
    partition::{Commits, close_if_pending, serve},
    polled_consumer_config,
    reconnect::KnownBrokers,
};

/// Capacity of the queue of unread rebalances and faults.
const QUEUE: usize = 64;

/// How long a revoked partition may take to drain before it is released anyway and its owner is
/// fenced.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout of one attempt to read the group's commits.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts to read the group's commits before the assignment fails. Must fit within
/// `max.poll.interval.ms`.
const COMMITTED_ATTEMPTS: u32 = 20;

/// A partition that was assigned to this process.
#[derive(Debug)]
pub struct Assignment {
    pub partition: Partition,
    /// The group's committed offset with its metadata. `None` if there is none.
    pub committed: Option<(i64, String)>,
    /// Offset from which the partition is read, unless the owner seeks.
    pub start: i64,
}

/// A decision of the group, or a fault. Received in order.
#[derive(Debug)]
pub enum Rebalance {
    /// These partitions are now assigned to this process.
    Assigned(Vec<Assignment>),
    /// These partitions were revoked. The owner drains and commits them, and drops `done` to
    /// release them. If another member already owns them, or the owner takes too long, their
    /// fences are cancelled first.
    Revoked { partitions: Vec<i32>, done: Done },
    /// An error of the group or the broker. The membership continues.
    Fault(KafkaError),
    /// An assignment failed. A member gets another one only by leaving and rejoining the group.
    Failed(KafkaError),
}

/// Dropped to report that the revoked partitions can be released.
#[derive(Debug)]
pub struct Done(#[expect(dead_code, reason = "its drop is the message")] mpsc::Sender<()>);

/// Handles the group's rebalances. A reader without a group has no `events`.
pub struct MemberContext {
    topic: Arc<str>,
    events: Option<Sender<Rebalance>>,
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    is_leaving: AtomicBool,
    /// Fences of the partitions that are assigned to this process.
    owned: Mutex<HashMap<i32, CancellationToken>>,
    commits: Arc<Commits>,
    brokers: KnownBrokers,
}

impl ClientContext for MemberContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.record(&statistics);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if let Err(error) = self.assign(consumer, list) {
                self.send(Rebalance::Failed(error));
            }
        } else if let Err(error) = self.revoke(consumer, list) {
            self.send(Rebalance::Fault(error));
        }
    }
}

impl MemberContext {
    pub(super) fn new(topic: Arc<str>, events: Option<Sender<Rebalance>>) -> Self {
        Self {
            topic,
            events,
            consumer: OnceLock::new(),
            is_leaving: AtomicBool::new(false),
            owned: Mutex::default(),
            commits: Arc::default(),
            brokers: KnownBrokers::default(),
        }
    }

    /// Returns the commits that have not been answered.
    pub(super) fn commits(&self) -> &Arc<Commits> {
        &self.commits
    }

    /// Returns the record of whether the consumer knows any broker.
    pub(super) fn brokers(&self) -> &KnownBrokers {
        &self.brokers
    }

    /// Gives the context access to its consumer, so that it can split off queues.
    pub(super) fn bind(&self, consumer: &Arc<BaseConsumer<Self>>) {
        // Set only once, immediately after the consumer is created.
        let _ = self.consumer.set(Arc::downgrade(consumer));
    }

    fn send(&self, event: Rebalance) {
        if let Some(events) = &self.events {
            send(events, event);
        }
    }

    /// Starts each partition at the group's committed offset, or at the log's start if there is
    /// none. Never starts at the end, because that would skip records.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let Some(shared) = self.consumer.get().and_then(Weak::upgrade) else {
            return Ok(());
        };
        if self.is_leaving.load(Ordering::Acquire) {
            return consumer.incremental_assign(list);
        }
        let committed = read_commits(consumer, list)?;
        let mut starts = TopicPartitionList::with_capacity(committed.count());
        let mut assignments = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let start = start_offset(consumer, &element, offset)?;
            starts.add_partition_offset(
                element.topic(),
                element.partition(),
                Offset::Offset(start),
            )?;
            assignments.push(Assignment {
                partition: self.register(Partition::split(
                    &shared,
                    &self.topic,
                    element.partition(),
                )?),
                committed: offset.map(|offset| (offset, element.metadata().to_owned())),
                start,
            });
        }
        consumer.incremental_assign(&starts)?;
        self.send(Rebalance::Assigned(assignments));
        Ok(())
    }

    /// Releases partitions after their owners have drained and committed them.
    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let elements = list.elements();
        let partitions = elements.iter().map(TopicPartitionListElem::partition);
        let partitions: Vec<i32> = partitions.collect();
        let fences = self.release(&partitions);
        if consumer.assignment_lost() {
            cancel(&fences);
        }
        let (done, drained) = mpsc::channel();
        self.send(Rebalance::Revoked {
            partitions,
            done: Done(done),
        });
        // The error is the expected result: all senders were dropped.
        let _ = drained.recv_timeout(DRAIN_TIMEOUT);
        cancel(&fences);
        consumer.incremental_unassign(list)
    }

    /// Registers the fence of a partition until it is released.
    fn register(&self, partition: Partition) -> Partition {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        owned.insert(partition.number(), partition.fence().clone());
        drop(owned);
        partition
    }

    /// Removes and returns the fences of partitions that will be reassigned.
    fn release(&self, partitions: &[i32]) -> Vec<CancellationToken> {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let fences = partitions.iter();
        fences.filter_map(|number| owned.remove(number)).collect()
    }
}

fn cancel(fences: &[CancellationToken]) {
    for fence in fences {
        fence.cancel();
    }
}

/// Sends an event to the receiver. A fault is only informative, so it is dropped if the queue
/// is full.
fn send(events: &Sender<Rebalance>, event: Rebalance) {
    match events.try_send(event) {
        Ok(()) | Err(TrySendError::Full(Rebalance::Fault(_))) => {}
        // The receiver is closed only during shutdown.
        Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(event)) => {
            let _ = events.blocking_send(event);
        }
    }
}

/// Returns the start offset: the committed offset, or the log's start if the log no longer has
/// the committed offset. The owner of the partition checks the gap. The result is a number and
/// not `Offset::Beginning`: librdkafka resolves that asynchronously, and the late result would
/// override a seek that was made in the meantime.
fn start_offset<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    element: &TopicPartitionListElem<'_>,
    committed: Option<i64>,
) -> Result<i64, KafkaError> {
    let (topic, partition) = (element.topic(), element.partition());
    match (
        consumer.fetch_watermarks(topic, partition, COMMITTED_TIMEOUT),
        committed,
    ) {
        (Ok((start, end)), Some(offset)) if start <= offset && offset <= end => Ok(offset),
        (Ok((start, _)), _) => Ok(start),
        (Err(error), Some(offset)) => {
            tracing::warn!(topic, partition, %error, "cannot read the log's bounds");
            Ok(offset)
        }
        (Err(error), None) => Err(error),
    }
}

/// Returns the group's commits for these partitions, retrying until they are known.
fn read_commits<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let result = consumer.committed_offsets(list.clone(), COMMITTED_TIMEOUT);
        let checked = result.and_then(|committed| {
            for element in committed.elements() {
                element.error()?;
            }
            Ok(committed)
        });
        match checked {
            Ok(committed) => return Ok(committed),
            Err(error) if attempts == COMMITTED_ATTEMPTS => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot read the group's commits, retrying");
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// A member of a group until it is dropped. A separate thread polls the consumer, so that a
/// slow sink never loses the membership.
#[derive(Debug)]
pub struct Membership {
    stop: Arc<AtomicBool>,
    commits: Arc<Commits>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kafka {
    /// Joins `group` for `topic`. The receiver yields the group's decisions.
    pub fn join(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<(Membership, Receiver<Rebalance>), KafkaError> {
        Membership::join(self, group, topic)
    }
}

impl Membership {
    fn join(
        kafka: &Kafka,
        group: &str,
        topic: &str,
    ) -> Result<(Self, Receiver<Rebalance>), KafkaError> {
        let (events, receiver) = channel(QUEUE);
        let context = MemberContext::new(Arc::from(topic), Some(events.clone()));
        let consumer: Arc<BaseConsumer<MemberContext>> =
            Arc::new(polled_consumer_config(kafka, group).create_with_context(context)?);
        consumer.context().bind(&consumer);
        let commits = Arc::clone(&consumer.context().commits);
        consumer.subscribe(&[topic])?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let servers = kafka.brokers().to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("kafka {group}"))
            .spawn(move || {
                serve(
                    &consumer,
                    &servers,
                    || is_stopped.load(Ordering::Acquire),
                    |error| send(&events, Rebalance::Fault(error)),
                );
                consumer.context().is_leaving.store(true, Ordering::Release);
                close_if_pending(&consumer);
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        let membership = Self {
            stop,
            commits,
            thread: Some(thread),
        };
        Ok((membership, receiver))
    }

    /// Returns true if a commit is overdue and will never be answered. The only way out is to
    /// leave the group and to rejoin it with another consumer.
    pub fn is_stuck(&self) -> bool {
        self.commits.has_overdue()
    }

    /// Leaves the group. Blocks until the owners of the partitions have drained them.
    pub fn leave(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread ends on its own. A panic in it has already been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_faults_use_bounded_memory_and_block_nothing() {
        let (events, mut receiver) = channel(QUEUE);
        for _ in 0..10 * QUEUE {
            send(&events, Rebalance::Fault(KafkaError::Canceled));
        }
        assert_eq!(receiver.len(), QUEUE);
        receiver.close();
        send(&events, Rebalance::Assigned(Vec::new()));
    }
}
