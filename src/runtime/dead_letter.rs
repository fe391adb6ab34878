//! Dead letters: the original bytes, and in headers what, where and why. The
//! headers outlive a run and are final; `fanout-format` is 1.

use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::{Fault, Rejected};
use crate::{
    debezium::Record,
    kafka::{KafkaError, Letter, Producer, TopicIdentity, chunk::Chunk, is_transient},
    sink_kind::ConsumerGroup,
    time::{clock::now_us, timestamp::Rfc3339},
};

/// Letters on their way at once.
const IN_FLIGHT: usize = 256;

/// Sends one sink's dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    producer: Producer,
    group: ConsumerGroup,
    /// Which life of the source topic the records are from.
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

    /// Sends the letters of a batch in the log's order, many at once. Those that
    /// are not acknowledged stay in `rejected`.
    ///
    /// # Errors
    /// When any is not; of several reasons, one that no repetition mends.
    pub async fn send_all(&self, chunk: &Chunk, rejected: &mut Vec<Rejected>) -> Result<(), Fault> {
        let letters: Vec<_> = rejected
            .iter()
            .map(|rejected| self.letter(chunk, rejected).boxed())
            .collect();
        let outcomes: Vec<Result<(), KafkaError>> =
            stream::iter(letters).buffered(IN_FLIGHT).collect().await;
        let mut outcome = outcomes.iter();
        rejected.retain(|_| outcome.next().is_some_and(Result::is_err));
        let errors = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let lasting = errors().find(|error| !is_transient(error));
        match lasting.or(errors().next()) {
            None => Ok(()),
            Some(error) => Err(self.fault(error)),
        }
    }

    async fn letter(&self, chunk: &Chunk, rejected: &Rejected) -> Result<(), KafkaError> {
        match chunk.get(rejected.index) {
            Some(record) => self.send(&record, rejected).await,
            None => Ok(()),
        }
    }

    fn fault(&self, error: &KafkaError) -> Fault {
        let reason = format!("dead letters are not acknowledged: {error}");
        if is_transient(error) {
            return Fault::retry(reason);
        }
        let remedy = format!(
            "let topic {} take them: its max.message.bytes, and the right to write",
            self.producer.topic()
        );
        Fault::halt("dead_letter_refused", reason, remedy)
    }

    /// Returns when all replicas have the letter.
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
