//! Reads the dead-letter topic one dead letter at a time, because they may not fit
//! into memory.

use super::letter::DeadLetter;
use crate::{
    connections::Connections,
    kafka::{Bounds, KafkaError, Scan, Stretch},
    source::tables::reader_group,
};

/// Reads dead letters, oldest first within a partition.
#[derive(Debug)]
pub struct DeadLetterReader {
    /// `None` if the topic does not exist.
    scan: Option<Scan>,
}

impl DeadLetterReader {
    /// Starts to read all current dead letters. There are none if the topic does not
    /// exist.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn start(connections: &Connections) -> Result<Self, KafkaError> {
        Self::within(connections, &bounds(connections).await?)
    }

    /// Starts to read the dead letters within `bounds`, which are indexed by
    /// partition.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn within(connections: &Connections, bounds: &[Bounds]) -> Result<Self, KafkaError> {
        if bounds.is_empty() {
            return Ok(Self { scan: None });
        }
        let stretch = |(partition, bounds): (i32, &Bounds)| Stretch {
            partition,
            from: bounds.start,
            until: Some(bounds.end),
        };
        let stretches: Vec<Stretch> = (0..).zip(bounds).map(stretch).collect();
        let settings = connections.settings();
        let topic = &settings.kafka.dead_letter_topic;
        let reader = reader_group(settings, "dlq");
        let scan = connections.kafka.scan(&reader, topic, &stretches)?;
        Ok(Self { scan: Some(scan) })
    }

    /// Returns the next dead letter, or `None` at the end.
    ///
    /// # Errors
    /// If the broker fails permanently.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, KafkaError> {
        match &mut self.scan {
            Some(scan) => Ok(scan.next().await?.map(DeadLetter::from)),
            None => Ok(None),
        }
    }
}

/// Returns the start and end offset of each partition of the dead-letter topic.
/// Empty if the topic does not exist.
///
/// # Errors
/// If the broker does not respond.
pub async fn bounds(connections: &Connections) -> Result<Vec<Bounds>, KafkaError> {
    let settings = connections.settings();
    let topic = &settings.kafka.dead_letter_topic;
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    match log.partitions(topic).await? {
        Some(_) => log.bounds(topic).await,
        None => Ok(Vec::new()),
    }
}
