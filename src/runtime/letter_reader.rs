//! The topic of dead letters, read one letter at a time: there may be more of
//! them than fit into memory.

use super::letter::Letter;
use crate::{
    connections::Connections,
    kafka::{Bounds, KafkaError, Scan, Stretch},
    source::tables::reader_group,
};

/// A reading of the letters, oldest first within a partition.
#[derive(Debug)]
pub struct Reader {
    /// None where there is no topic.
    scan: Option<Scan>,
}

impl Reader {
    /// Begins to read all letters that there are now. No topic: no letters.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn start(connections: &Connections) -> Result<Self, KafkaError> {
        Self::within(connections, &bounds(connections).await?)
    }

    /// Begins to read those within these bounds, by partition.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn within(connections: &Connections, bounds: &[Bounds]) -> Result<Self, KafkaError> {
        if bounds.is_empty() {
            return Ok(Self { scan: None });
        }
        let whole = |(partition, bounds): (i32, &Bounds)| Stretch {
            partition,
            from: bounds.start,
            until: Some(bounds.end),
        };
        let stretches: Vec<Stretch> = (0..).zip(bounds).map(whole).collect();
        let settings = connections.settings();
        let topic = &settings.kafka.dead_letter_topic;
        let reader = reader_group(settings, "dlq");
        let scan = connections.kafka.scan(&reader, topic, &stretches)?;
        Ok(Self { scan: Some(scan) })
    }

    /// The next letter; none at the end.
    ///
    /// # Errors
    /// When the broker goes away for good.
    pub async fn next(&mut self) -> Result<Option<Letter>, KafkaError> {
        match &mut self.scan {
            Some(scan) => Ok(scan.next().await?.map(Letter::from)),
            None => Ok(None),
        }
    }
}

/// Where each partition of the topic begins and ends; none where there is no
/// topic.
///
/// # Errors
/// When the broker does not answer.
pub async fn bounds(connections: &Connections) -> Result<Vec<Bounds>, KafkaError> {
    let settings = connections.settings();
    let topic = &settings.kafka.dead_letter_topic;
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    match log.partitions(topic).await? {
        Some(_) => log.bounds(topic).await,
        None => Ok(Vec::new()),
    }
}
