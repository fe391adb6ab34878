//! Small state that outlives all processes and all other stores: the latest value of each key
//! in a compacted topic. The callers define the keys and the format of their values.

use std::{collections::BTreeMap, sync::Arc};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Kafka, Letter, Log, Producer, Stretch};

/// Values by key, as far as the topic has been read.
#[derive(Debug, Default)]
struct KnownValues {
    /// Id of the topic that was read. Nil if the broker has no topic ids.
    topic: Uuid,
    next: i64,
    values: BTreeMap<String, Vec<u8>>,
}

/// A compacted topic with one partition, read as a map. Cheap to clone; clones share the values
/// that were read.
#[derive(Debug, Clone)]
pub struct StateTopic {
    kafka: Kafka,
    group: String,
    topic: String,
    log: Log,
    producer: Producer,
    known: Arc<Mutex<KnownValues>>,
}

impl Kafka {
    /// Returns a compacted topic that is read as a map. `group` is only a name for the broker's
    /// logs: no group is joined and nothing is committed.
    ///
    /// # Errors
    /// If a client cannot be created.
    pub fn state(&self, group: &str, topic: &str) -> Result<StateTopic, KafkaError> {
        StateTopic::new(self, group, topic)
    }
}

impl StateTopic {
    /// Creates the clients. Nothing is sent before the first call.
    fn new(kafka: &Kafka, group: &str, topic: &str) -> Result<Self, KafkaError> {
        Ok(Self {
            kafka: kafka.clone(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            log: kafka.log(group)?,
            producer: kafka.producer(topic)?,
            known: Arc::default(),
        })
    }

    /// Returns the topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.topic
    }

    /// Returns the current value of a key, or `None` if it was never set.
    ///
    /// # Errors
    /// If the broker does not respond. A missing topic is empty and not an error.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KafkaError> {
        let mut known = self.known.lock().await;
        self.refresh(&mut known).await?;
        Ok(known.values.get(key).cloned())
    }

    /// Returns the current values of all keys that start with `prefix`, or `None` if the topic
    /// does not exist.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn values_with_prefix(
        &self,
        prefix: &str,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, KafkaError> {
        let mut known = self.known.lock().await;
        if !self.refresh(&mut known).await? {
            return Ok(None);
        }
        let from = known.values.range(prefix.to_owned()..);
        let matches = from.take_while(|(key, _)| key.starts_with(prefix));
        let matches = matches.map(|(key, value)| (key.clone(), value.clone()));
        Ok(Some(matches.collect()))
    }

    /// Returns true if the topic exists.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn exists(&self) -> Result<bool, KafkaError> {
        Ok(self.log.partitions(&self.topic).await?.is_some())
    }

    /// Sets a key. Returns when all replicas have stored the value.
    ///
    /// # Errors
    /// If the topic does not exist, or the broker does not acknowledge the value in time. In
    /// the latter case the key may or may not be set.
    pub async fn set(&self, key: &str, value: &[u8]) -> Result<(), KafkaError> {
        self.send(key, Some(value)).await
    }

    /// Removes a key.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub async fn remove(&self, key: &str) -> Result<(), KafkaError> {
        self.send(key, None).await
    }

    async fn send(&self, key: &str, value: Option<&[u8]>) -> Result<(), KafkaError> {
        // A broker with automatic topic creation would not make the topic compacted.
        if self.log.identity(&self.topic).await?.is_none() {
            let code = RDKafkaErrorCode::UnknownTopicOrPartition;
            return Err(KafkaError::MessageProduction(code));
        }
        let letter = Letter {
            key: Some(key.as_bytes()),
            value,
            headers: &[],
        };
        self.producer.send(letter).await
    }

    /// Reads the records that were appended since the last call, or all records if the topic
    /// was recreated. Returns whether the topic exists.
    async fn refresh(&self, known: &mut KnownValues) -> Result<bool, KafkaError> {
        let Some(identity) = self.log.identity(&self.topic).await? else {
            *known = KnownValues::default();
            return Ok(false);
        };
        let bounds = match self.log.bounds(&self.topic).await {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                *known = KnownValues::default();
                return Ok(false);
            }
            bounds => bounds?,
        };
        let Some(bounds) = bounds.first() else {
            return Ok(false);
        };
        if known.topic != identity.id || bounds.end < known.next {
            *known = KnownValues {
                topic: identity.id,
                ..KnownValues::default()
            };
        }
        if known.next >= bounds.end {
            return Ok(true);
        }
        let stretch = Stretch {
            partition: 0,
            from: known.next.max(bounds.start),
            until: Some(bounds.end),
        };
        let mut scan = self.kafka.scan(&self.group, &self.topic, &[stretch])?;
        while let Some(record) = scan.next().await? {
            let Some(key) = record.key else { continue };
            let key = String::from_utf8_lossy(&key).into_owned();
            match record.value {
                Some(value) => known.values.insert(key, value),
                None => known.values.remove(&key),
            };
            known.next = record.offset + 1;
        }
        known.next = bounds.end;
        Ok(true)
    }
}
