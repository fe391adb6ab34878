//! The copy of the catalogue in ClickHouse, used for titles and for joins in ClickHouse.
//! Like the events, its rows are versioned by their position in the log.
//!
//! This sink reads all columns that enrichment reads, so it dead-letters every record that
//! enrichment cannot use. That happens once, regardless of how many workers follow the
//! topic.

use std::sync::Arc;

use super::{
    CONTENT, Common, ContentRow,
    begin::{ActiveReread, PartitionBounds},
    classify::clickhouse,
    generations::{Generations, Metadata},
    takeover,
};
use crate::{
    connections::clickhouse::Insert,
    crash,
    debezium::{Change, Content, Record},
    engagement::version::Position,
    kafka::chunk::Chunk,
    runtime::{Committed, Delivery, Fault, Halt, Health, PartitionSink, Sink},
    time::clock::now_ms,
};

/// The sink of the table `content`.
#[derive(Debug)]
pub struct ContentMirror {
    common: Arc<Common>,
    generations: Generations,
}

impl ContentMirror {
    pub fn new(common: Arc<Common>) -> Self {
        Self {
            generations: common.generations(),
            common,
        }
    }
}

impl Sink for ContentMirror {
    type Partition = ContentPartition;

    async fn open(&self) -> Result<(), Fault> {
        takeover::open(&self.generations, self.common.clients()).await
    }

    async fn check(&self) -> Result<Health, Fault> {
        Ok(self.generations.check(self.common.clients()).await?.1)
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<ContentPartition, Fault> {
        let common = &self.common;
        self.generations.check_unchanged(common.clients()).await?;
        let incarnation = self.generations.current()?.content;
        let topic = common.content.source().topic();
        let bounds = PartitionBounds::fetch(&common.log, &common.content_group, &topic, partition);
        let bounds = bounds.await?;
        let start = bounds.resolve_start(committed, &incarnation, incarnation.generation)?;
        Ok(ContentPartition {
            start: Some(start.next),
            reread: start.reread,
            ..self.replay(partition, None).await?
        })
    }

    async fn replay(
        &self,
        _partition: i32,
        _metadata: Option<&str>,
    ) -> Result<ContentPartition, Fault> {
        Ok(ContentPartition {
            generation: self.generations.current()?.content.generation,
            common: Arc::clone(&self.common),
            start: None,
            reread: None,
        })
    }
}

/// One partition of the content sink.
#[derive(Debug)]
pub struct ContentPartition {
    common: Arc<Common>,
    generation: u16,
    start: Option<i64>,
    reread: Option<ActiveReread>,
}

impl PartitionSink for ContentPartition {
    async fn deliver(&mut self, batch: &Chunk, _attempt: u32) -> Result<Delivery, Fault> {
        let mut delivery = Delivery {
            taken: batch.len(),
            ..Delivery::default()
        };
        let mut insert = None;
        let store = &self.common.store;
        for (index, record) in batch.records().enumerate() {
            let change = self.common.content.decode(&record);
            crash::point("content", "decoded");
            let row = match &change {
                Ok(Change::Upsert { row, .. }) => {
                    delivery.understand(index);
                    self.upsert(&record, row)?
                }
                Ok(Change::Delete { id }) => self.delete(&record, *id)?,
                Ok(Change::Ignored(reason)) => {
                    delivery.ignore(reason.code());
                    continue;
                }
                Ok(Change::Truncate { .. }) => {
                    // Earlier records must be stored before the truncate deletes rows.
                    if let Some(insert) = insert.take() {
                        end(insert).await?;
                    }
                    let version = self.version(&record)?;
                    while store
                        .delete_content_before(version)
                        .await
                        .map_err(clickhouse)?
                    {}
                    delivery.applied += 1;
                    continue;
                }
                Err(reject) => {
                    delivery.reject(index, reject.clone());
                    continue;
                }
            };
            let insert = match &mut insert {
                Some(insert) => insert,
                slot => slot.insert(
                    store
                        .insert::<ContentRow<'static>>(CONTENT)
                        .await
                        .map_err(clickhouse)?,
                ),
            };
            insert.write(&row).await.map_err(clickhouse)?;
            delivery.applied += 1;
        }
        if let Some(insert) = insert {
            end(insert).await?;
        }
        Ok(delivery)
    }

    fn begin(&self) -> Option<i64> {
        self.start
    }

    fn metadata(&self, next: i64) -> String {
        let reread = self.reread.as_ref().map(ActiveReread::reread);
        Metadata::new(self.generation, next, Vec::new(), reread).text()
    }

    fn committed(&mut self, next: i64) {
        self.reread.take_if(|reread| reread.is_complete(next));
    }

    fn degradation(&self) -> Option<Halt> {
        self.reread.as_ref().map(ActiveReread::degraded)
    }
}

async fn end(insert: Insert<ContentRow<'static>>) -> Result<(), Fault> {
    crash::point("content", "sent");
    insert.end().await.map_err(clickhouse)
}

impl ContentPartition {
    fn upsert<'r>(
        &self,
        record: &Record<'_>,
        row: &'r Content<'_>,
    ) -> Result<ContentRow<'r>, Fault> {
        Ok(ContentRow {
            id: row.id,
            title: &row.title,
            content_type: row.content_type.as_deref(),
            length_seconds: row.length_seconds,
            processed_at: now_ms(),
            _version: self.version(record)?,
            _deleted: 0,
        })
    }

    fn delete(&self, record: &Record<'_>, id: uuid::Uuid) -> Result<ContentRow<'static>, Fault> {
        Ok(ContentRow::deleted(id, self.version(record)?, now_ms()))
    }

    fn version(&self, record: &Record<'_>) -> Result<u64, Fault> {
        Position::new(self.generation, record.offset)
            .map(Position::get)
            .map_err(|error| Fault::halt("position", error.to_string(), "report this as a bug"))
    }
}
