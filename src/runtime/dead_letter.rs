//! Sends dead letters. A dead letter has the original key and value; its headers
//! have the sink, the reason and the position of the record. The headers are a
//! stable format, numbered 1 in `fanout-format`.

use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::{Fault, Rejected};
use crate::{
    debezium::Record,
    kafka::{KafkaError, Letter, Producer, TopicIdentity, chunk::Chunk, is_transient},
    sink_kind::ConsumerGroup,
    time::{clock::now_us, timestamp::Rfc3339},
};

/// Maximum number of dead letters in flight.
const IN_FLIGHT: usize = 256;

/// Sends one sink's dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    producer: Producer,
    group: ConsumerGroup,
    /// Incarnation of the source topic.
    generation: TopicIdentity,
}

impl DeadLetters {
    pub fn new(producer: Producer, group: ConsumerGroup, generation: TopicIdentity) -> Self {
        Self {
            producer,
            group,
            generation,
        }
    }

    /// Sends the dead letters of a batch concurrently, in the order of the log. The
    /// unacknowledged ones stay in `rejected`.
    ///
    /// # Errors
    /// If a dead letter is not acknowledged. A permanent error has priority over a
    /// transient one.
    pub async fn send_all(&self, chunk: &Chunk, rejected: &mut Vec<Rejected>) -> Result<(), Fault> {
        let sends: Vec<_> = rejected
            .iter()
            .map(|rejected| self.send_rejected(chunk, rejected).boxed())
            .collect();
        let outcomes: Vec<Result<(), KafkaError>> =
            stream::iter(sends).buffered(IN_FLIGHT).collect().await;
        let mut outcome = outcomes.iter();
        rejected.retain(|_| outcome.next().is_some_and(Result::is_err));
        let errors = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let permanent = errors().find(|error| !is_transient(error));
        match permanent.or(errors().next()) {
            None => Ok(()),
            Some(error) => Err(self.fault(error)),
        }
    }

    async fn send_rejected(&self, chunk: &Chunk, rejected: &Rejected) -> Result<(), KafkaError> {
        match chunk.get(rejected.index) {
            Some(record) => self.send(&record, rejected).await,
            None => Ok(()),
        }
    }

    fn fault(&self, error: &KafkaError) -> Fault {
        let reason = format!("cannot write dead letters: {error}");
        if is_transient(error) {
            return Fault::retry(reason);
        }
        let remedy = format!(
            "check max.message.bytes of topic {} and the permission to write to it",
            self.producer.topic()
        );
        Fault::halt("dead_letter_refused", reason, remedy)
    }

    /// Sends one dead letter and waits until all replicas have it.
    async fn send(&self, record: &Record<'_>, rejected: &Rejected) -> Result<(), KafkaError> {
        tracing::warn!(
            sink = self.group.name(),
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            code = rejected.code,
            detail = rejected.detail,
            "dead-lettered"
        );
        let headers = [
            ("fanout-format", "1".to_owned()),
            ("fanout-sink", self.group.name().to_owned()),
            ("fanout-code", rejected.code.to_owned()),
            ("fanout-error", rejected.detail.clone()),
            ("fanout-topic", record.topic.to_owned()),
            ("fanout-partition", record.partition.to_string()),
            ("fanout-offset", record.offset.to_string()),
            ("fanout-generation", self.generation.to_string()),
            ("fanout-timestamp", record.timestamp_ms.to_string()),
            ("fanout-time", Rfc3339(now_us()).to_string()),
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
