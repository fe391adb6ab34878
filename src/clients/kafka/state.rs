//! Small facts that outlive every process and every other store: the latest
//! value of each key in a compacted topic. What the keys mean, and the format
//! of their values, is the caller's business.

use std::{collections::BTreeMap, sync::Arc};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Kafka, Letter, Log, Producer, Stretch};

/// The latest value of each key, as far as the topic has been read.
#[derive(Debug, Default)]
struct Known {
    /// The topic that was read; nil where the broker gives no ids.
    topic: Uuid,
    next: i64,
    values: BTreeMap<String, Vec<u8>>,
}

/// A compacted topic of one partition, read as a map. Cheap to clone; clones
/// share what has been read.
#[derive(Debug, Clone)]
pub struct StateTopic {
    kafka: Kafka,
    group: String,
    topic: String,
    log: Log,
    producer: Producer,
    known: Arc<Mutex<Known>>,
}

impl Kafka {
    /// A compacted topic, read as a map. `group` is only a name for the broker's
    /// logs: no group is joined and nothing is committed.
    ///
    /// # Errors
    /// When a client cannot be created.
    pub fn state(&self, group: &str, topic: &str) -> Result<StateTopic, KafkaError> {
        StateTopic::new(self, group, topic)
    }
}

impl StateTopic {
    /// Nothing is sent before the first call.
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

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.topic
    }

    /// The value of a key as of now; none where it was never set.
    ///
    /// # Errors
    /// When the broker does not answer. A topic that does not exist holds
    /// nothing and is no error.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KafkaError> {
        let mut known = self.known.lock().await;
        self.refresh(&mut known).await?;
        Ok(known.values.get(key).cloned())
    }

    /// The values of all keys that begin with `prefix`, as of now; none where there
    /// is no such topic.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn under(
        &self,
        prefix: &str,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, KafkaError> {
        let mut known = self.known.lock().await;
        if !self.refresh(&mut known).await? {
            return Ok(None);
        }
        let from = known.values.range(prefix.to_owned()..);
        let under = from.take_while(|(key, _)| key.starts_with(prefix));
        let under = under.map(|(key, value)| (key.clone(), value.clone()));
        Ok(Some(under.collect()))
    }

    /// Whether the topic is there.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn exists(&self) -> Result<bool, KafkaError> {
        Ok(self.log.partitions(&self.topic).await?.is_some())
    }

    /// Sets a key. Returns when all replicas have the value.
    ///
    /// # Errors
    /// When the topic does not exist. When the broker does not accept it in
    /// time: it may or may not be set.
    pub async fn set(&self, key: &str, value: &[u8]) -> Result<(), KafkaError> {
        self.send(key, Some(value)).await
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub async fn remove(&self, key: &str) -> Result<(), KafkaError> {
        self.send(key, None).await
    }

    async fn send(&self, key: &str, value: Option<&[u8]>) -> Result<(), KafkaError> {
        // A broker that creates topics by itself would not compact it.
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

    /// Reads what has been appended since the last call, or everything where
    /// the topic is another one. Returns whether the topic is there.
    async fn refresh(&self, known: &mut Known) -> Result<bool, KafkaError> {
        let Some(identity) = self.log.identity(&self.topic).await? else {
            *known = Known::default();
            return Ok(false);
        };
        let bounds = match self.log.bounds(&self.topic).await {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                *known = Known::default();
                return Ok(false);
            }
            bounds => bounds?,
        };
        let Some(bounds) = bounds.first() else {
            return Ok(false);
        };
        if known.topic != identity.id || bounds.end < known.next {
            *known = Known {
                topic: identity.id,
                ..Known::default()
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
