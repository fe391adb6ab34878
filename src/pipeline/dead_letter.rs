//! Dead letters: the original bytes, and in headers what, where and why. The
//! headers outlive a run and are final; `fanout-format` is 1.

use crate::{
    clients::kafka::{KafkaError, Letter, Producer, TopicIdentity},
    event::Record,
    sinks::Rejected,
};

/// Sends one sink's dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    producer: Producer,
    sink: &'static str,
    /// Which life of the source topic the records are from.
    generation: TopicIdentity,
}

impl DeadLetters {
    pub fn new(producer: Producer, sink: &'static str, generation: TopicIdentity) -> Self {
        Self {
            producer,
            sink,
            generation,
        }
    }

    /// Returns when all replicas have the letter.
    pub async fn send(&self, record: &Record<'_>, rejected: &Rejected) -> Result<(), KafkaError> {
        tracing::warn!(
            sink = self.sink,
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            code = rejected.code,
            detail = rejected.detail,
            "dead-lettered"
        );
        let headers = [
            ("fanout-format", "1".to_owned()),
            ("fanout-sink", self.sink.to_owned()),
            ("fanout-code", rejected.code.to_owned()),
            ("fanout-error", rejected.detail.clone()),
            ("fanout-topic", record.topic.to_owned()),
            ("fanout-partition", record.partition.to_string()),
            ("fanout-offset", record.offset.to_string()),
            ("fanout-generation", self.generation.to_string()),
            ("fanout-time", jiff::Timestamp::now().to_string()),
        ];
        self.producer
            .send(Letter {
                key: record.key,
                value: record.value,
                headers: &headers,
            })
            .await
    }
}
