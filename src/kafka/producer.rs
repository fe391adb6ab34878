//! The producer of dead letters. All replicas acknowledge a dead letter before the offset of
//! its record is committed.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};

use super::{Kafka, reconnect::Replaceable};

/// A record to be produced.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, String)],
}

/// Produces to one topic.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Replaceable<FutureProducer>>,
    topic: String,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Producer")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Returns a producer for one topic.
    pub fn producer(&self, topic: &str) -> Result<Producer, KafkaError> {
        Producer::new(self, topic)
    }
}

impl Producer {
    /// Creates the client. Nothing is sent before the first record. Records may be as large as
    /// the topic accepts.
    fn new(kafka: &Kafka, topic: &str) -> Result<Self, KafkaError> {
        let mut config = kafka.client_config();
        config
            .set("client.id", "fanout")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "20000")
            .set("message.max.bytes", (128 * 1024 * 1024).to_string())
            // Dead letters are rare, and the sender waits for each.
            .set("linger.ms", "0")
            .set("log_level", "3");
        Ok(Self {
            inner: Arc::new(Replaceable::new(move || config.create())?),
            topic: topic.to_owned(),
        })
    }

    /// Returns the topic that is written to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sends one record and waits until all replicas have it.
    pub async fn send(&self, letter: Letter<'_>) -> Result<(), KafkaError> {
        let headers = letter.headers.iter().fold(
            OwnedHeaders::new_with_capacity(letter.headers.len()),
            |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            },
        );
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).headers(headers);
        record.key = letter.key;
        record.payload = letter.value;
        let inner = self.inner.get();
        let result = inner.send(record, Timeout::After(Duration::from_secs(20)));
        let result = result.await.map(|_| ()).map_err(|(error, _)| error);
        self.inner.record_outcome(&result);
        result
    }
}
