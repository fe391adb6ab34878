//! One partition in this process's hands: taking its records, committing how
//! far they are done.

use std::sync::Arc;

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{
        BaseConsumer, CommitMode, Consumer as _, ConsumerContext, base_consumer::PartitionQueue,
    },
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::member::MemberContext;
use crate::chunk::Chunk;

/// How long the consumer may take to go elsewhere.
const SEEK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

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
            match self.queue.poll(std::time::Duration::ZERO) {
                None if at_end => return Ok(Taken::End),
                None => return Ok(Taken::Drained),
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
    pub async fn seek(&self, offset: i64) -> Result<(), KafkaError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.topic));
        let number = self.number;
        let offset = match offset {
            0 => Offset::Beginning,
            offset => Offset::Offset(offset),
        };
        let sought = tokio::task::spawn_blocking(move || {
            consumer.seek(&topic, number, offset, SEEK_TIMEOUT)
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
    /// Commits that everything before `next` is done. Waits for the broker.
    ///
    /// # Errors
    /// When the broker refuses it, or the partition has been let go: the broker
    /// would not refuse that, where this process is a member again by then.
    pub async fn commit(&self, next: i64, metadata: &str) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, self.number, Offset::Offset(next))?;
        if let Some(mut element) = list.find_partition(&self.topic, self.number) {
            element.set_metadata(metadata);
        }
        let (consumer, fence) = (Arc::clone(&self.consumer), self.fence.clone());
        let committed = tokio::task::spawn_blocking(move || {
            if fence.is_cancelled() {
                return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::AssignmentLost));
            }
            consumer.commit(&list, CommitMode::Sync)
        });
        committed.await.unwrap_or(Err(KafkaError::Canceled))
    }
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
/// queues are served by their owners. Blocking; returns when `stop` says so.
pub(super) fn serve<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    mut stop: impl FnMut() -> bool,
    mut fault: impl FnMut(KafkaError),
) {
    const SLICE: std::time::Duration = std::time::Duration::from_millis(100);
    while !stop() {
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
