//! Membership of a consumer group: which partitions are this process's, and
//! from where.

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

/// Decisions of the group, and faults, that wait to be read.
const QUEUE: usize = 64;

/// How long a revoked partition may take to drain before it is let go as it is,
/// and its owner fenced.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one try to read the group's commits may take.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries to read the group's commits before the assignment is given up. Within
/// `max.poll.interval.ms`.
const COMMITTED_TRIES: u32 = 20;

/// A partition that has become this process's.
#[derive(Debug)]
pub struct Claim {
    pub partition: Partition,
    /// What the group had committed, with its metadata; none where it had not.
    pub committed: Option<(i64, String)>,
    /// Where reading begins unless it is told to go elsewhere.
    pub start: i64,
}

/// What the group decided, in order.
#[derive(Debug)]
pub enum Rebalance {
    /// These are now this process's.
    Assigned(Vec<Claim>),
    /// These no longer are. Drained and committed, they are let go when `done`
    /// is dropped. Where somebody else has them already, or they take too long,
    /// their fences are cancelled first.
    Revoked { partitions: Vec<i32>, done: Done },
    /// The group or the broker has something to say; the membership goes on.
    Fault(KafkaError),
    /// An assignment could not be taken up: only leaving and joining again
    /// brings another.
    Failed(KafkaError),
}

/// Dropped when a revoked partition has been let go.
#[derive(Debug)]
pub struct Done(#[expect(dead_code, reason = "its drop is the message")] mpsc::Sender<()>);

/// Answers the group's rebalances. For readers without a group it has nothing
/// to do.
pub struct MemberContext {
    topic: Arc<str>,
    events: Option<Sender<Rebalance>>,
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    leaving: AtomicBool,
    /// The fences of the partitions that are this process's.
    held: Mutex<HashMap<i32, CancellationToken>>,
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
        self.brokers.reported(&statistics);
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
            leaving: AtomicBool::new(false),
            held: Mutex::default(),
            commits: Arc::default(),
            brokers: KnownBrokers::default(),
        }
    }

    /// Those that have no answer yet.
    pub(super) fn commits(&self) -> &Arc<Commits> {
        &self.commits
    }

    /// Which brokers the consumer knows.
    pub(super) fn brokers(&self) -> &KnownBrokers {
        &self.brokers
    }

    /// Lets the context split queues off the consumer it belongs to.
    pub(super) fn bind(&self, consumer: &Arc<BaseConsumer<Self>>) {
        // Set once, right after creation.
        let _ = self.consumer.set(Arc::downgrade(consumer));
    }

    fn send(&self, event: Rebalance) {
        if let Some(events) = &self.events {
            send(events, event);
        }
    }

    /// Begins each partition where the group left it, and at the log's start
    /// where it never was: never at the end, which would skip records.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let Some(shared) = self.consumer.get().and_then(Weak::upgrade) else {
            return Ok(());
        };
        if self.leaving.load(Ordering::Acquire) {
            return consumer.incremental_assign(list);
        }
        let committed = committed(consumer, list)?;
        let mut begin = TopicPartitionList::with_capacity(committed.count());
        let mut claims = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let start = start(consumer, &element, offset)?;
            begin.add_partition_offset(
                element.topic(),
                element.partition(),
                Offset::Offset(start),
            )?;
            claims.push(Claim {
                partition: self.hold(Partition::split(&shared, &self.topic, element.partition())?),
                committed: offset.map(|offset| (offset, element.metadata().to_owned())),
                start,
            });
        }
        consumer.incremental_assign(&begin)?;
        self.send(Rebalance::Assigned(claims));
        Ok(())
    }

    /// Lets partitions go once their owners have drained and committed them.
    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let elements = list.elements();
        let partitions = elements.iter().map(TopicPartitionListElem::partition);
        let partitions: Vec<i32> = partitions.collect();
        let fences = self.let_go(&partitions);
        if consumer.assignment_lost() {
            cancel(&fences);
        }
        let (done, drained) = mpsc::channel();
        self.send(Rebalance::Revoked {
            partitions,
            done: Done(done),
        });
        // An error is the good case: all senders are dropped.
        let _ = drained.recv_timeout(DRAIN_TIMEOUT);
        cancel(&fences);
        consumer.incremental_unassign(list)
    }

    /// The partition is this process's until it is let go.
    fn hold(&self, partition: Partition) -> Partition {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(partition.number(), partition.fence().clone());
        drop(held);
        partition
    }

    /// The fences of partitions that will soon be somebody else's.
    fn let_go(&self, partitions: &[i32]) -> Vec<CancellationToken> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fences = partitions.iter();
        fences.filter_map(|number| held.remove(number)).collect()
    }
}

fn cancel(fences: &[CancellationToken]) {
    for fence in fences {
        fence.cancel();
    }
}

/// Hands over what the group decided. A fault is only reported, so it is left
/// out where others wait to be read.
fn send(events: &Sender<Rebalance>, event: Rebalance) {
    match events.try_send(event) {
        Ok(()) | Err(TrySendError::Full(Rebalance::Fault(_))) => {}
        // The receiver is gone only while everything shuts down.
        Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(event)) => {
            let _ = events.blocking_send(event);
        }
    }
}

/// Where to begin: where the group was, or at what there is where the log no
/// longer has that; whoever takes the partition over judges the gap. A number
/// and not "the beginning", which librdkafka looks up, and comes back to half a
/// second after a seek that it was still looking up at.
fn start<C: ConsumerContext>(
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
            tracing::warn!(topic, partition, %error, "the log's bounds cannot be read");
            Ok(offset)
        }
        (Err(error), None) => Err(error),
    }
}

/// The group's commits for these partitions, asked for until they are known.
fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = consumer.committed_offsets(list.clone(), COMMITTED_TIMEOUT);
        let whole = asked.and_then(|committed| {
            for element in committed.elements() {
                element.error()?;
            }
            Ok(committed)
        });
        match whole {
            Ok(committed) => return Ok(committed),
            Err(error) if tries == COMMITTED_TRIES => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the group's commits cannot be read, trying again");
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// A member of a group, until dropped. A thread of its own serves it, so that a
/// slow sink never costs the membership.
#[derive(Debug)]
pub struct Membership {
    stop: Arc<AtomicBool>,
    commits: Arc<Commits>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kafka {
    /// Joins `group` for `topic`. What the group decides arrives at the receiver.
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
        let (events, received) = channel(QUEUE);
        let context = MemberContext::new(Arc::from(topic), Some(events.clone()));
        let consumer: Arc<BaseConsumer<MemberContext>> =
            Arc::new(polled_consumer_config(kafka, group).create_with_context(context)?);
        consumer.context().bind(&consumer);
        let commits = Arc::clone(&consumer.context().commits);
        consumer.subscribe(&[topic])?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let servers = kafka.brokers().to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("kafka {group}"))
            .spawn(move || {
                serve(
                    &consumer,
                    &servers,
                    || stopped.load(Ordering::Acquire),
                    |error| send(&events, Rebalance::Fault(error)),
                );
                consumer.context().leaving.store(true, Ordering::Release);
                close_if_pending(&consumer);
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        let membership = Self {
            stop,
            commits,
            thread: Some(thread),
        };
        Ok((membership, received))
    }

    /// Whether a commit has had no answer for so long that none will come: only
    /// leaving and joining again, as another consumer, helps.
    pub fn is_stuck(&self) -> bool {
        self.commits.are_stuck()
    }

    /// Leaves the group. Blocking, as long as the partitions' owners take to
    /// drain them.
    pub fn leave(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic in it has been reported there.
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
    fn faults_that_nobody_reads_take_no_memory_and_hold_nothing_up() {
        let (events, mut received) = channel(QUEUE);
        for _ in 0..10 * QUEUE {
            send(&events, Rebalance::Fault(KafkaError::Canceled));
        }
        assert_eq!(received.len(), QUEUE);
        received.close();
        send(&events, Rebalance::Assigned(Vec::new()));
    }
}
