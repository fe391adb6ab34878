//! Keeps the catalogue at the end of the content topic: reads the topic from its start and
//! follows it. A record that cannot be decoded has no effect, so the content keeps its
//! previous state. The content mirror dead-letters that record, because it reads at least
//! the same columns.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::catalogue::{Catalogue, CatalogueChange, ContentUpdate};
use crate::{
    debezium::{Change, DimensionDecoder},
    kafka::{Kafka, KafkaError, Limits, Partition, Reader, Taken, chunk::Chunk},
    runtime::KnownPlaceholders,
};

/// Limits of one chunk.
const LIMITS: Limits = Limits {
    records: 4096,
    bytes: 8 * 1024 * 1024,
};

/// Follows the content topic until dropped.
#[derive(Debug)]
pub struct Follower {
    _reader: Reader,
    tasks: Vec<JoinHandle<()>>,
}

impl Follower {
    /// Starts at these offsets, indexed by partition. `None` means the start of the topic.
    pub fn start(
        kafka: &Kafka,
        group: &str,
        decoder: &DimensionDecoder,
        placeholders: &KnownPlaceholders,
        starts: &[Option<i64>],
        catalogue: &Arc<Catalogue>,
    ) -> Result<Self, KafkaError> {
        catalogue.restart(starts.iter().map(|start| start.unwrap_or(0)).collect());
        let topic = decoder.source().topic();
        let (reader, partitions) = kafka.reader(group, &topic, starts)?;
        let tasks = partitions
            .into_iter()
            .map(|partition| {
                let placeholders = placeholders.clone();
                tokio::spawn(follow(
                    partition,
                    decoder.clone(),
                    placeholders,
                    Arc::clone(catalogue),
                ))
            })
            .collect();
        Ok(Self {
            _reader: reader,
            tasks,
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn follow(
    mut partition: Partition,
    decoder: DimensionDecoder,
    placeholders: KnownPlaceholders,
    catalogue: Arc<Catalogue>,
) {
    let number = partition.number();
    let mut chunk = Chunk::new(Arc::clone(partition.topic()), number);
    loop {
        let taken = match partition.take(&mut chunk, LIMITS) {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "cannot read the content topic, retrying");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        prepare(&placeholders, &chunk).await;
        let updates: Vec<CatalogueChange> = chunk
            .records()
            .filter_map(|record| {
                let offset = record.offset;
                let (id, fields) = match decoder.decode(&record) {
                    Ok(Change::Upsert { row, .. }) => {
                        let content_type = row.content_type.as_deref().map(Arc::from);
                        (row.id, Some((content_type, row.length_seconds)))
                    }
                    Ok(Change::Delete { id }) => (id, None),
                    Ok(Change::Truncate { .. }) => {
                        return Some(CatalogueChange::Truncate {
                            partition: number,
                            offset,
                        });
                    }
                    Ok(Change::Ignored(_)) | Err(_) => return None,
                };
                Some(CatalogueChange::Content(ContentUpdate {
                    id,
                    partition: number,
                    offset,
                    fields,
                }))
            })
            .collect();
        // At the end of the partition, the consumer's position is also past transaction
        // markers, like the end offset.
        let next = match taken {
            Taken::End => partition.position().ok().flatten(),
            Taken::Full | Taken::Drained => chunk.next_offset(),
        };
        if let Some(next) = next.max(chunk.next_offset()) {
            catalogue.apply(&updates, number, next);
        }
        chunk.clear();
        if taken == Taken::Drained || taken == Taken::End {
            partition.arrived().await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Loads the placeholders needed to decode the chunk, retrying until it succeeds.
async fn prepare(placeholders: &KnownPlaceholders, chunk: &Chunk) {
    while let Err(error) = placeholders.prepare(chunk).await {
        tracing::warn!(%error, "cannot load the placeholders of the content topic, retrying");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
