//! The enriched rows: decode, enrich, version, insert; then re-enrich what is
//! stored and has come to know less than the catalogue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Common, FACTS, FactRow,
    begin::{Begin, Rereading},
    catalogue::{Known, Reached},
    classify::clickhouse,
    generations::{Current, Generations, Metadata, truncated},
    position::position,
    reenrich::{Held, Pass, Reach},
    takeover,
};
use crate::{
    connections::clickhouse::Insert,
    crash,
    debezium::{Change, Engagement, FactChange, Record},
    engagement::{
        enrichment::{engagement_pct, engagement_seconds},
        version::{Position, Version},
    },
    kafka::chunk::Chunk,
    runtime::{Committed, Delivery, Fault, FlushOutcome, Halt, Health, PartitionSink, Sink},
    time::clock::now_ms,
};

/// A settlement goes on to its next statement for so long.
const SETTLES_FOR: Duration = Duration::from_millis(500);

/// Changes of content that arrive together are re-enriched together.
const COALESCE: Duration = Duration::from_millis(200);

/// What a partition does that has to wait for its turn.
const WAITS: &str = "re-enriching stored rows: waiting for another partition";

/// Records decoded before other tasks get their turn.
const SLICE: usize = 256;

/// The sink of the enriched table.
#[derive(Debug)]
pub struct Facts {
    common: Arc<Common>,
    generations: Generations,
}

impl Facts {
    pub fn new(common: Arc<Common>) -> Self {
        Self {
            generations: common.generations(),
            common,
        }
    }
}

impl Sink for Facts {
    type Partition = FactsPartition;

    async fn open(&self) -> Result<(), Fault> {
        takeover::open(&self.generations, self.common.servers()).await?;
        let found = self.generations.current()?;
        found.whole()?;
        self.common.has_content(&found.content, &[]).await?;
        self.common.load_catalogue(&found.content).await
    }

    async fn check(&self) -> Result<Health, Fault> {
        let (found, health) = self.generations.health(self.common.servers()).await?;
        found.whole()?;
        self.common.has_content(&found.content, &[]).await?;
        Ok(health)
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<FactsPartition, Fault> {
        self.generations.still(self.common.servers()).await?;
        let found = self.generations.current()?;
        let topic = self.common.facts.source().topic();
        let group = &self.common.group;
        let begin = Begin::find(&self.common.log, group, &topic, partition).await?;
        let begin = begin.judge(committed, &found.facts, found.content.generation)?;
        let enriched = begin.known.map_or_else(Reached::new, |known| known.c);
        self.common.has_content(&found.content, &enriched).await?;
        Ok(FactsPartition {
            enriched,
            begin: Some(begin.next),
            again: begin.again,
            catches_up: false,
            ..self.replay(partition, None).await?
        })
    }

    async fn replay(
        &self,
        partition: i32,
        metadata: Option<&str>,
    ) -> Result<FactsPartition, Fault> {
        let found = self.generations.current()?;
        let enriched = match metadata {
            Some(metadata) => Metadata::read(metadata, found.content.generation)
                .map_or_else(Reached::new, |known| known.c),
            None => self.common.catalogue.reached(),
        };
        Ok(FactsPartition {
            common: Arc::clone(&self.common),
            partition,
            generations: found.generations(),
            enriched,
            begin: None,
            again: None,
            advances: self.common.catalogue.advances(),
            held: self.common.turns.hold(partition),
            pass: None,
            waits: false,
            catches_up: true,
        })
    }
}

/// One partition of it.
#[derive(Debug)]
pub struct FactsPartition {
    common: Arc<Common>,
    partition: i32,
    generations: Current,
    /// Up to where the stored rows know the catalogue.
    enriched: Reached,
    begin: Option<i64>,
    again: Option<Rereading>,
    advances: watch::Receiver<u64>,
    held: Held,
    /// What is being re-enriched.
    pass: Option<Pass>,
    /// Another partition's pass has to end first.
    waits: bool,
    /// Somebody else enriches what is stored, perhaps before this has stored
    /// it: settling first reads to the end of the content topic.
    catches_up: bool,
}

/// What became of the wish to begin a pass.
enum Begun {
    Pass,
    NothingOwed,
    /// Another partition's pass has to end first.
    AnothersTurn,
}

impl PartitionSink for FactsPartition {
    async fn deliver(&mut self, batch: &Chunk, _attempt: u32) -> Result<Delivery, Fault> {
        let mut writer = Writer {
            common: &self.common,
            generations: self.generations,
            partition: self.partition,
            processed_at: now_ms(),
            caught_up: false,
            insert: None,
            delivery: Delivery::default(),
        };
        for (index, record) in batch.records().enumerate() {
            match self.common.facts.decode(&record) {
                Ok(Change::Truncate { .. }) => {
                    let place = format!("{}@{}", record.partition, record.offset);
                    // What stands before it is done first; a replay may meet one
                    // that was mended long ago.
                    if index == 0 && !self.catches_up {
                        self.tell_of_truncate(&place).await?;
                    }
                    writer.delivery.halt = Some(truncated(&place));
                    break;
                }
                Ok(change) => {
                    crash::point("clickhouse", "decoded");
                    writer.take(&record, &change).await?;
                    if matches!(change, Change::Upsert { .. }) {
                        writer.delivery.understand(index);
                    }
                }
                Err(reject) => writer.delivery.reject(index, reject),
            }
            writer.delivery.taken = index + 1;
            if index % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
        }
        writer.finish().await
    }

    async fn flush(&mut self) -> Result<FlushOutcome, Fault> {
        self.advances.mark_unchanged();
        let started = Instant::now();
        loop {
            let Some(pass) = &mut self.pass else {
                match self.begin_pass().await? {
                    Begun::Pass => continue,
                    Begun::NothingOwed => return Ok(FlushOutcome::Done),
                    Begun::AnothersTurn => return Ok(FlushOutcome::More(WAITS.to_owned())),
                }
            };
            if let Some(reached) = pass.done() {
                self.enriched.clone_from(reached);
                self.pass = None;
                continue;
            }
            if started.elapsed() >= SETTLES_FOR {
                return Ok(FlushOutcome::More(pass.left()));
            }
            let reach = Reach {
                store: &self.common.store,
                catalogue: &self.common.catalogue,
                generation: self.generations.content,
            };
            pass.step(reach).await?;
        }
    }

    async fn pending(&mut self) {
        if self.pass.is_some() {
            return;
        }
        if self.waits {
            self.common.turns.is_free(self.partition).await;
            // It may be for one that has asked before.
            return tokio::time::sleep(COALESCE).await;
        }
        if self.advances.changed().await.is_err() {
            // The catalogue lives as long as the sink; without it nothing is.
            std::future::pending::<()>().await;
        }
        // Undone if this future is dropped before its end.
        self.advances.mark_changed();
        tokio::time::sleep(COALESCE).await;
    }

    fn begin(&self) -> Option<i64> {
        self.begin
    }

    fn metadata(&self, next: i64) -> String {
        let again = self.again.as_ref().map(Rereading::again);
        let enriched = self.enriched.clone();
        Metadata::new(self.generations.content, next, enriched, again).text()
    }

    fn committed(&mut self, next: i64) {
        self.again.take_if(|again| again.is_over(next));
    }

    fn degradation(&self) -> Option<Halt> {
        self.again.as_ref().map(Rereading::degradation)
    }
}

impl FactsPartition {
    /// The workers of the other partitions halt as well.
    async fn tell_of_truncate(&self, place: &str) -> Result<(), Fault> {
        let number = self.generations.facts;
        self.common.record.note_truncate(number, place).await
    }

    /// Begins to re-enrich what is owed, if anything is.
    async fn begin_pass(&mut self) -> Result<Begun, Fault> {
        if self.catches_up {
            self.common.catch_up().await?;
        }
        self.waits = false;
        // Read first: a change after this is found the next time.
        let reached = self.common.catalogue.reached();
        let catalogue = &self.common.catalogue;
        let changed = catalogue.changed_between(&self.enriched, &reached);
        if changed.is_empty() {
            self.enriched = reached;
            return Ok(Begun::NothingOwed);
        }
        let Some(turn) = self.common.turns.take(self.partition) else {
            self.waits = true;
            return Ok(Begun::AnothersTurn);
        };
        let most = self.common.reenrich_rows;
        self.pass = Some(Pass::new(turn, &self.held, reached, changed, most));
        Ok(Begun::Pass)
    }
}

/// Writes one batch.
struct Writer<'a> {
    common: &'a Common,
    generations: Current,
    partition: i32,
    processed_at: i64,
    /// The catalogue was brought to its end after this batch was fetched.
    caught_up: bool,
    insert: Option<Insert<FactRow<'static>>>,
    delivery: Delivery,
}

impl Writer<'_> {
    async fn take(&mut self, record: &Record<'_>, change: &FactChange<'_>) -> Result<(), Fault> {
        match change {
            Change::Upsert {
                row, extra_fields, ..
            } => {
                self.delivery.extra_fields += u64::from(*extra_fields);
                let known = self.look_up(row).await?;
                let row = self.upsert(record, row, known.as_ref())?;
                self.write(&row).await?;
                self.delivery.applied += 1;
            }
            Change::Delete { id } => {
                let row = self.delete(record, *id)?;
                self.write(&row).await?;
                self.delivery.applied += 1;
            }
            Change::Ignored(why) => self.delivery.ignore(why.code()),
            // The caller stops before it.
            Change::Truncate { .. } => {}
        }
        Ok(())
    }

    /// The content of an event. That it is unknown counts only once the
    /// catalogue has reached the end that the topic had after this batch was
    /// fetched.
    async fn look_up(&mut self, row: &Engagement<'_>) -> Result<Option<Known>, Fault> {
        let Some(id) = &row.content_id else {
            return Ok(None);
        };
        let known = self.common.catalogue.get(id);
        if known.is_some() || self.caught_up {
            return Ok(known);
        }
        self.common.catch_up().await?;
        self.caught_up = true;
        Ok(self.common.catalogue.get(id))
    }

    fn upsert<'r>(
        &self,
        record: &Record<'_>,
        row: &'r Engagement<'_>,
        known: Option<&'r Known>,
    ) -> Result<FactRow<'r>, Fault> {
        let length_seconds = known.and_then(|known| known.length_seconds);
        let content = known
            .map(|known| position(self.generations.content, known.offset))
            .transpose()?;
        let fact = position(self.generations.facts, record.offset)?;
        Ok(FactRow {
            event_id: row.id,
            content_id: row.content_id,
            user_id: row.user_id,
            event_type: row.event_type.as_deref(),
            event_ts: row.event_ts,
            duration_ms: row.duration_ms,
            engagement_seconds: engagement_seconds(row.duration_ms),
            engagement_pct: engagement_pct(row.duration_ms, length_seconds),
            device: row.device.as_deref(),
            raw_payload: row.raw_payload.as_deref(),
            content_type: known.and_then(|known| known.content_type.as_deref()),
            length_seconds,
            processed_at: self.processed_at,
            _version: Version::new(fact, content).get(),
            _deleted: 0,
            _partition: self.partition,
            _offset: record.offset,
            _content_offset: content.map_or(0, Position::get),
            _record_ts: record.timestamp_ms,
        })
    }

    fn delete(&self, record: &Record<'_>, id: i64) -> Result<FactRow<'static>, Fault> {
        let fact = position(self.generations.facts, record.offset)?;
        Ok(FactRow {
            processed_at: self.processed_at,
            _partition: self.partition,
            _offset: record.offset,
            _record_ts: record.timestamp_ms,
            ..FactRow::deleted(id, Version::new(fact, None).get())
        })
    }

    async fn write(&mut self, row: &FactRow<'_>) -> Result<(), Fault> {
        let insert = match &mut self.insert {
            Some(insert) => insert,
            none => {
                let begun = self.common.store.insert(FACTS).await.map_err(clickhouse)?;
                none.insert(begun)
            }
        };
        insert.write(row).await.map_err(clickhouse)
    }

    /// Returns when ClickHouse has acknowledged the batch.
    async fn finish(self) -> Result<Delivery, Fault> {
        if let Some(insert) = self.insert {
            crash::point("clickhouse", "sent");
            insert.end().await.map_err(clickhouse)?;
        }
        Ok(self.delivery)
    }
}
