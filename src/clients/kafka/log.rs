//! Questions about the log that need no group: partitions, ends, offsets at a
//! time, a group's commits.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use super::{
    Kafka, TopicIdentity, consumer_config, native,
    partition::{answered, commit_of},
    reconnect::Replaceable,
};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// First offset and end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset retained.
    pub start: i64,
    /// The last stable offset.
    pub end: i64,
}

/// A connection for asking. Cheap to clone; all methods leave the executor's
/// threads alone.
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
    /// Questions about the log. `group` is whose commits are asked for; the
    /// connection does not join it.
    pub fn log(&self, group: &str) -> Result<Log, KafkaError> {
        Log::new(self, group)
    }
}

impl Log {
    /// Nothing is sent before the first question.
    fn new(kafka: &Kafka, group: &str) -> Result<Self, KafkaError> {
        let config = consumer_config(kafka, group);
        let consumer = Replaceable::new(move || config.create().map(Arc::new))?;
        Ok(Self {
            consumer: Arc::new(consumer),
        })
    }

    /// Runs a blocking question on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let consumer = self.consumer.get();
        let answer = tokio::task::spawn_blocking(move || question(&consumer)).await;
        // A panic inside librdkafka's wrapper, or the runtime going down.
        let answer = answer.unwrap_or(Err(KafkaError::Canceled));
        self.consumer.ended(&answer);
        answer
    }

    /// Number of partitions; none where there is no such topic.
    pub async fn partitions(&self, topic: &str) -> Result<Option<i32>, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |consumer| {
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

    /// First offset and last stable offset of each partition, by number.
    pub async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, KafkaError> {
        let partitions = self.partitions(topic).await?.ok_or_else(unknown_topic)?;
        let topic = topic.to_owned();
        self.ask(move |consumer| {
            (0..partitions)
                .map(|partition| {
                    let (start, end) = consumer.fetch_watermarks(&topic, partition, TIMEOUT)?;
                    Ok(Bounds { start, end })
                })
                .collect()
        })
        .await
    }

    /// The last stable offset of each partition, by number.
    pub async fn ends(&self, topic: &str) -> Result<Vec<i64>, KafkaError> {
        let bounds = self.bounds(topic).await?;
        Ok(bounds.into_iter().map(|bounds| bounds.end).collect())
    }

    /// The first offset in each partition whose record is not older than
    /// `time_ms`, or the partition's end.
    pub async fn offsets_at(&self, topic: &str, time_ms: i64) -> Result<Vec<i64>, KafkaError> {
        let ends = self.ends(topic).await?;
        let topic = topic.to_owned();
        self.ask(move |consumer| {
            let mut times = TopicPartitionList::with_capacity(ends.len());
            for partition in (0..).take(ends.len()) {
                times.add_partition_offset(&topic, partition, Offset::Offset(time_ms))?;
            }
            let found = consumer.offsets_for_times(times, TIMEOUT)?;
            let at = |(partition, end): (i32, &i64)| {
                let element = answer(&found, &topic, partition)?;
                Ok(match element.offset() {
                    Offset::Offset(offset) => offset,
                    _ => *end,
                })
            };
            (0..).zip(&ends).map(at).collect()
        })
        .await
    }

    /// What the group has committed, with the commits' metadata, by partition.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn commits(
        &self,
        topic: &str,
        partitions: usize,
    ) -> Result<Vec<Option<(i64, String)>>, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |consumer| {
            let mut list = TopicPartitionList::with_capacity(partitions);
            for partition in (0..).take(partitions) {
                list.add_partition(&topic, partition);
            }
            let committed = consumer.committed_offsets(list, TIMEOUT)?;
            let at = |partition| {
                let element = answer(&committed, &topic, partition)?;
                Ok(match element.offset() {
                    Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
                    _ => None,
                })
            };
            (0..).take(partitions).map(at).collect()
        })
        .await
    }

    /// What the group has noted at a topic: the metadata of a commit that is
    /// not of anybody's reading. Kafka forgets it with the topic, and a few
    /// days after it was last noted.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn noted(&self, topic: &str) -> Result<Option<String>, KafkaError> {
        let first = self.commits(topic, 1).await?.pop().flatten();
        Ok(first.map(|(_, note)| note))
    }

    /// Notes it, for a group without members.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn note(&self, topic: &str, note: &str) -> Result<(), KafkaError> {
        self.commit(topic, 0, 0, note).await
    }

    /// Commits, for a group without members, that everything before `next` is
    /// done.
    ///
    /// # Errors
    /// When the broker refuses it, or does not answer in time: it may or may
    /// not be done, then or later.
    pub async fn commit(
        &self,
        topic: &str,
        partition: i32,
        next: i64,
        metadata: &str,
    ) -> Result<(), KafkaError> {
        let list = commit_of(topic, partition, next, metadata)?;
        let consumer = self.consumer.get();
        let answer = answered(move || consumer.commit(&list, CommitMode::Sync)).await;
        self.consumer.ended(&answer);
        answer
    }

    /// Which life of the topic this is; none where there is no such topic.
    pub async fn identity(&self, topic: &str) -> Result<Option<TopicIdentity>, KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |consumer| native::identity(consumer.client(), &topic, TIMEOUT))
            .await
    }
}

/// What was answered for one partition. The question as a whole succeeds where
/// one of its partitions has no leader; that one is left as it was asked for.
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
