//! A reader of whole topics with a manual assignment, independent of any group's rebalancing.
//! Used for the catalogue and by the board's active worker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use super::{Kafka, Partition, member::MemberContext, partition::serve, polled_consumer_config};

/// Reads the partitions of a topic until it is dropped.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
}

impl Kafka {
    /// Reads `topic` from the given offset of each partition, by number. `None` means the
    /// partition's start. Commits go to `group`, which has no members.
    pub fn reader(
        &self,
        group: &str,
        topic: &str,
        starts: &[Option<i64>],
    ) -> Result<(Reader, Vec<Partition>), KafkaError> {
        let starts: Vec<(i32, Option<i64>)> = (0..).zip(starts.iter().copied()).collect();
        Reader::assign(self, group, topic, &starts)
    }

    /// Reads some of the topic's partitions, each from its start offset.
    pub fn partition_reader(
        &self,
        group: &str,
        topic: &str,
        starts: &[(i32, Option<i64>)],
    ) -> Result<(Reader, Vec<Partition>), KafkaError> {
        Reader::assign(self, group, topic, starts)
    }
}

impl Reader {
    fn assign(
        kafka: &Kafka,
        group: &str,
        topic: &str,
        starts: &[(i32, Option<i64>)],
    ) -> Result<(Self, Vec<Partition>), KafkaError> {
        let topic: Arc<str> = Arc::from(topic);
        let context = MemberContext::new(Arc::clone(&topic), None);
        let consumer: Arc<BaseConsumer<MemberContext>> =
            Arc::new(polled_consumer_config(kafka, group).create_with_context(context)?);
        let mut list = TopicPartitionList::with_capacity(starts.len());
        let mut partitions = Vec::with_capacity(starts.len());
        for &(number, start) in starts {
            let offset = start.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(&topic, number, offset)?;
            partitions.push(Partition::split(&consumer, &topic, number)?);
        }
        consumer.assign(&list)?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let servers = kafka.brokers().to_owned();
        std::thread::Builder::new()
            .name(format!("kafka {topic}"))
            .spawn(move || {
                serve(
                    &consumer,
                    &servers,
                    || is_stopped.load(Ordering::Acquire),
                    |error| tracing::debug!(%error, "error in a reader's consumer"),
                );
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok((Self { stop }, partitions))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
