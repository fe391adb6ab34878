//! Queries about the log that need no group membership: partitions, ends, offsets at a time, a
//! group's commits.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use super::{
    Kafka, TopicIdentity, consumer_config, native,
    partition::{commit_list, run_commit},
    reconnect::Replaceable,
};

/// Timeout of one query.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Start and end offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest retained offset.
    pub start: i64,
    /// The last stable offset.
    pub end: i64,
}

/// A connection for queries. Cheap to clone. No method blocks the executor's threads.
#[derive(Clone)]
pub struct Log {
    consumer: Arc<Replaceable<Arc<BaseConsumer>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Kafka {
    /// Returns a connection for queries about the log. `group` is the group whose commits are
    /// read; the connection does not join the group.
    pub fn log(&self, group: &str) -> Result<Log, KafkaError> {
        Log::new(self, group)
    }
}

impl Log {
    /// Creates the connection. Nothing is sent before the first query.
    fn new(kafka: &Kafka, group: &str) -> Result<Self, KafkaError> {
        let config = consumer_config(kafka, group);
        let consumer = Replaceable::new(move || config.create().map(Arc::new))?;
        Ok(Self {
            consumer: Arc::new(consumer),
        })
    }

    /// Runs a blocking query on a thread for blocking work.
    async fn query<T: Send + 'static>(
        &self,
        request: impl FnOnce(&BaseConsumer) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let consumer = self.consumer.get();
        let answer = tokio::task::spawn_blocking(move || request(&consumer)).await;
        // Cancelled by a panic inside librdkafka's wrapper, or by the shutdown of the runtime.
        let answer = answer.unwrap_or(Err(KafkaError::Canceled));
        self.consumer.record_outcome(&answer);
        answer
    }

    /// Returns the number of partitions, or `None` if the topic does not exist.
    pub async fn partitions(&self, topic: &str) -> Result<Option<i32>, KafkaError> {
        let topic = topic.to_owned();
        self.query(move |consumer| {
            let metadata = consumer.fetch_metadata(Some(&topic), TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let Some(found) = found else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                ) => return Ok(None),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }
            let count = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
            Ok((count > 0).then_some(count))
        })
        .await
    }

    /// Returns the start and the last stable offset of each partition, by number.
    pub async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, KafkaError> {
        let partitions = self.partitions(topic).await?.ok_or_else(unknown_topic)?;
        let topic = topic.to_owned();
        self.query(move |consumer| {
            (0..partitions)
                .map(|partition| {
                    let (start, end) = consumer.fetch_watermarks(&topic, partition, TIMEOUT)?;
                    Ok(Bounds { start, end })
                })
                .collect()
        })
        .await
    }

    /// Returns the last stable offset of each partition, by number.
    pub async fn ends(&self, topic: &str) -> Result<Vec<i64>, KafkaError> {
        let bounds = self.bounds(topic).await?;
        Ok(bounds.into_iter().map(|bounds| bounds.end).collect())
    }

    /// Returns the first offset in each partition whose record is not older than `time_ms`, or
    /// the partition's end.
    pub async fn offsets_at(&self, topic: &str, time_ms: i64) -> Result<Vec<i64>, KafkaError> {
        let ends = self.ends(topic).await?;
        let topic = topic.to_owned();
        self.query(move |consumer| {
            let mut times = TopicPartitionList::with_capacity(ends.len());
            for partition in (0..).take(ends.len()) {
                times.add_partition_offset(&topic, partition, Offset::Offset(time_ms))?;
            }
            let found = consumer.offsets_for_times(times, TIMEOUT)?;
            let offset_at = |(partition, end): (i32, &i64)| {
                let element = answer(&found, &topic, partition)?;
                Ok(match element.offset() {
                    Offset::Offset(offset) => offset,
                    _ => *end,
                })
            };
            (0..).zip(&ends).map(offset_at).collect()
        })
        .await
    }

    /// Returns the group's committed offsets with their metadata, by partition.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn commits(
        &self,
        topic: &str,
        partitions: usize,
    ) -> Result<Vec<Option<(i64, String)>>, KafkaError> {
        let topic = topic.to_owned();
        self.query(move |consumer| {
            let mut list = TopicPartitionList::with_capacity(partitions);
            for partition in (0..).take(partitions) {
                list.add_partition(&topic, partition);
            }
            let committed = consumer.committed_offsets(list, TIMEOUT)?;
            let commit_at = |partition| {
                let element = answer(&committed, &topic, partition)?;
                Ok(match element.offset() {
                    Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
                    _ => None,
                })
            };
            (0..).take(partitions).map(commit_at).collect()
        })
        .await
    }

    /// Returns the group's note on a topic: the metadata of a commit that does not represent
    /// any reader's progress. Kafka deletes the note with the topic, and a few days after it
    /// was last written.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn read_note(&self, topic: &str) -> Result<Option<String>, KafkaError> {
        let first = self.commits(topic, 1).await?.pop().flatten();
        Ok(first.map(|(_, note)| note))
    }

    /// Writes the note, for a group without members.
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub async fn note(&self, topic: &str, note: &str) -> Result<(), KafkaError> {
        self.commit(topic, 0, 0, note).await
    }

    /// Commits, for a group without members, that all records before `next` are done.
    ///
    /// # Errors
    /// If the broker refuses the commit or does not respond in time. In the latter case the
    /// commit may or may not have been made, or may be made later.
    pub async fn commit(
        &self,
        topic: &str,
        partition: i32,
        next: i64,
        metadata: &str,
    ) -> Result<(), KafkaError> {
        let list = commit_list(topic, partition, next, metadata)?;
        let consumer = self.consumer.get();
        let answer = run_commit(move || consumer.commit(&list, CommitMode::Sync)).await;
        self.consumer.record_outcome(&answer);
        answer
    }

    /// Returns the identity of the topic's current incarnation, or `None` if the topic does not
    /// exist.
    pub async fn identity(&self, topic: &str) -> Result<Option<TopicIdentity>, KafkaError> {
        let topic = topic.to_owned();
        self.query(move |consumer| native::identity(consumer.client(), &topic, TIMEOUT))
            .await
    }
}

/// Returns the answer for one partition. The query as a whole succeeds even if a partition
/// has no leader; that partition's element is then unchanged.
fn answer<'a>(
    list: &'a TopicPartitionList,
    topic: &str,
    partition: i32,
) -> Result<TopicPartitionListElem<'a>, KafkaError> {
    let element = list.find_partition(topic, partition);
    let element = element.ok_or_else(unknown_topic)?;
    element.error()?;
    Ok(element)
}

fn unknown_topic() -> KafkaError {
    KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)
}
