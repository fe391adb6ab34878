//! The copy of the catalogue in ClickHouse, for titles and for whoever joins
//! there. Its rows are versioned by their place in the log like the facts'.
//!
//! It reads all the columns that enrichment reads, so what enrichment cannot
//! use is among its dead letters, once however many workers follow the topic.

use std::sync::Arc;

use super::{
    CONTENT, Common, ContentRow,
    begin::{Begin, Rereading},
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

/// The sink of `content`.
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
        takeover::open(&self.generations, self.common.servers()).await
    }

    async fn check(&self) -> Result<Health, Fault> {
        Ok(self.generations.health(self.common.servers()).await?.1)
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<ContentPartition, Fault> {
        self.generations.still(self.common.servers()).await?;
        let found = self.generations.current()?;
        let topic = self.common.content.source().topic();
        let group = &self.common.content_group;
        let begin = Begin::find(&self.common.log, group, &topic, partition).await?;
        let begin = begin.judge(committed, &found.content, found.content.generation)?;
        Ok(ContentPartition {
            begin: Some(begin.next),
            again: begin.again,
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
            begin: None,
            again: None,
        })
    }
}

/// One partition of it.
#[derive(Debug)]
pub struct ContentPartition {
    common: Arc<Common>,
    generation: u16,
    begin: Option<i64>,
    again: Option<Rereading>,
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
                Ok(Change::Ignored(why)) => {
                    delivery.ignore(why.code());
                    continue;
                }
                Ok(Change::Truncate { .. }) => {
                    // Of what stands before it, all has to be stored first.
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
                none => none.insert(
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
        self.begin
    }

    fn metadata(&self, next: i64) -> String {
        let again = self.again.as_ref().map(Rereading::again);
        Metadata::new(self.generation, next, Vec::new(), again).text()
    }

    fn committed(&mut self, next: i64) {
        self.again.take_if(|again| again.is_over(next));
    }

    fn degradation(&self) -> Option<Halt> {
        self.again.as_ref().map(Rereading::degradation)
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
