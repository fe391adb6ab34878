//! Writes the enriched table: decodes, enriches, versions and inserts events, then
//! re-enriches stored rows whose content has changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Common, FACTS, FactRow,
    begin::{ActiveReread, PartitionBounds},
    catalogue::{ContentOffsets, KnownContent},
    classify::clickhouse,
    generations::{GenerationNumbers, Generations, Metadata, truncated},
    position::position,
    reenrich::{PartitionGuard, Pass, PassContext},
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

/// Time budget of one `settle`. No statement starts after it.
const SETTLE_BUDGET: Duration = Duration::from_millis(500);

/// Content changes that arrive within this interval are re-enriched together.
const COALESCE_INTERVAL: Duration = Duration::from_millis(200);

/// Status text of a partition that waits for another partition's pass.
const WAITING: &str = "re-enriching stored rows: waiting for another partition";

/// Number of records decoded before other tasks can run.
const YIELD_INTERVAL: usize = 256;

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
        takeover::open(&self.generations, self.common.clients()).await?;
        let current = self.generations.current()?;
        current.check_not_truncated()?;
        let common = &self.common;
        common.check_content_retained(&current.content, &[]).await?;
        common.load_catalogue(&current.content).await
    }

    async fn check(&self) -> Result<Health, Fault> {
        let common = &self.common;
        let (current, standing) = self.generations.check(common.clients()).await?;
        current.check_not_truncated()?;
        common.check_content_retained(&current.content, &[]).await?;
        Ok(standing)
    }

    async fn claim(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<FactsPartition, Fault> {
        let common = &self.common;
        self.generations.check_unchanged(common.clients()).await?;
        let current = self.generations.current()?;
        let topic = common.facts.source().topic();
        let bounds = PartitionBounds::fetch(&common.log, &common.facts_group, &topic, partition);
        let bounds = bounds.await?;
        let start = bounds.resolve_start(committed, &current.facts, current.content.generation)?;
        let enriched_to = content_offsets(start.metadata);
        common
            .check_content_retained(&current.content, &enriched_to)
            .await?;
        Ok(FactsPartition {
            enriched_to,
            start: Some(start.next),
            reread: start.reread,
            is_replay: false,
            ..self.replay(partition, None).await?
        })
    }

    async fn replay(
        &self,
        partition: i32,
        metadata: Option<&str>,
    ) -> Result<FactsPartition, Fault> {
        let current = self.generations.current()?;
        let enriched_to = match metadata {
            Some(metadata) => {
                content_offsets(Metadata::parse(metadata, current.content.generation))
            }
            None => self.common.catalogue.offsets(),
        };
        Ok(FactsPartition {
            common: Arc::clone(&self.common),
            partition,
            generations: current.numbers(),
            enriched_to,
            start: None,
            reread: None,
            advances: self.common.catalogue.advances(),
            guard: self.common.pass_queue.register(partition),
            pass: None,
            is_waiting: false,
            is_replay: true,
        })
    }
}

fn content_offsets(metadata: Option<Metadata>) -> ContentOffsets {
    metadata.map_or_else(ContentOffsets::new, |metadata| metadata.content_offsets)
}

/// One partition of the facts sink.
#[derive(Debug)]
pub struct FactsPartition {
    common: Arc<Common>,
    partition: i32,
    generations: GenerationNumbers,
    /// Content offsets up to which the stored rows are enriched.
    enriched_to: ContentOffsets,
    start: Option<i64>,
    reread: Option<ActiveReread>,
    advances: watch::Receiver<u64>,
    guard: PartitionGuard,
    /// The re-enrichment pass in progress.
    pass: Option<Pass>,
    /// Whether this partition waits for another partition's pass.
    is_waiting: bool,
    /// Whether this is a replay. The live worker may re-enrich rows before the replay
    /// has stored its own, so a replay catches up with the content topic before a pass.
    is_replay: bool,
}

/// Outcome of an attempt to start a re-enrichment pass.
enum PassStart {
    Started,
    UpToDate,
    /// Another partition's pass must end first.
    Busy,
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
                    let position = format!("{}@{}", record.partition, record.offset);
                    // Records before the truncate are delivered first. A replay may
                    // read a truncate that was reconciled long ago.
                    if index == 0 && !self.is_replay {
                        self.record_truncate(&position).await?;
                    }
                    writer.delivery.halt = Some(truncated(&position));
                    break;
                }
                Ok(change) => {
                    crash::point("clickhouse", "decoded");
                    writer.write_change(&record, &change).await?;
                    if matches!(change, Change::Upsert { .. }) {
                        writer.delivery.understand(index);
                    }
                }
                Err(reject) => writer.delivery.reject(index, reject),
            }
            writer.delivery.taken = index + 1;
            if index % YIELD_INTERVAL == YIELD_INTERVAL - 1 {
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
                match self.start_pass().await? {
                    PassStart::Started => continue,
                    PassStart::UpToDate => return Ok(FlushOutcome::Done),
                    PassStart::Busy => return Ok(FlushOutcome::More(WAITING.to_owned())),
                }
            };
            if let Some(target) = pass.finished() {
                self.enriched_to.clone_from(target);
                self.pass = None;
                continue;
            }
            if started.elapsed() >= SETTLE_BUDGET {
                return Ok(FlushOutcome::More(pass.describe_remaining()));
            }
            let context = PassContext {
                store: &self.common.store,
                catalogue: &self.common.catalogue,
                generation: self.generations.content,
            };
            pass.step(context).await?;
        }
    }

    async fn pending(&mut self) {
        if self.pass.is_some() {
            return;
        }
        if self.is_waiting {
            self.common.pass_queue.wait_until_free(self.partition).await;
            // A partition that asked earlier may be the next.
            return tokio::time::sleep(COALESCE_INTERVAL).await;
        }
        if self.advances.changed().await.is_err() {
            // The catalogue lives as long as the sink. Without it, no work is pending.
            std::future::pending::<()>().await;
        }
        // Mark the change again, so that it is not lost if this future is dropped during
        // the sleep.
        self.advances.mark_changed();
        tokio::time::sleep(COALESCE_INTERVAL).await;
    }

    fn begin(&self) -> Option<i64> {
        self.start
    }

    fn metadata(&self, next: i64) -> String {
        let reread = self.reread.as_ref().map(ActiveReread::reread);
        let enriched_to = self.enriched_to.clone();
        Metadata::new(self.generations.content, next, enriched_to, reread).text()
    }

    fn committed(&mut self, next: i64) {
        self.reread.take_if(|reread| reread.is_complete(next));
    }

    fn degradation(&self) -> Option<Halt> {
        self.reread.as_ref().map(ActiveReread::degraded)
    }
}

impl FactsPartition {
    /// Records the truncate, so that the workers of the other partitions halt, too.
    async fn record_truncate(&self, position: &str) -> Result<(), Fault> {
        let number = self.generations.facts;
        let log = &self.common.generation_log;
        log.note_truncate(number, position).await
    }

    /// Starts a re-enrichment pass if stored rows are out of date.
    async fn start_pass(&mut self) -> Result<PassStart, Fault> {
        if self.is_replay {
            self.common.catch_up().await?;
        }
        self.is_waiting = false;
        // Read the offsets before the changes: the next pass finds later changes.
        let target = self.common.catalogue.offsets();
        let catalogue = &self.common.catalogue;
        let changed = catalogue.changed_between(&self.enriched_to, &target);
        if changed.is_empty() {
            self.enriched_to = target;
            return Ok(PassStart::UpToDate);
        }
        let Some(permit) = self.common.pass_queue.try_acquire(self.partition) else {
            self.is_waiting = true;
            return Ok(PassStart::Busy);
        };
        let max_rows = self.common.reenrich_rows;
        self.pass = Some(Pass::new(permit, &self.guard, target, changed, max_rows));
        Ok(PassStart::Started)
    }
}

/// Writes one batch.
struct Writer<'a> {
    common: &'a Common,
    generations: GenerationNumbers,
    partition: i32,
    processed_at: i64,
    /// Whether the catalogue has caught up since this batch was fetched.
    caught_up: bool,
    insert: Option<Insert<FactRow<'static>>>,
    delivery: Delivery,
}

impl Writer<'_> {
    async fn write_change(
        &mut self,
        record: &Record<'_>,
        change: &FactChange<'_>,
    ) -> Result<(), Fault> {
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
            Change::Ignored(reason) => self.delivery.ignore(reason.code()),
            // The caller handles truncates.
            Change::Truncate { .. } => {}
        }
        Ok(())
    }

    /// Looks up the content of an event. A miss counts only after the catalogue has
    /// caught up with the topic since this batch was fetched.
    async fn look_up(&mut self, row: &Engagement<'_>) -> Result<Option<KnownContent>, Fault> {
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
        known: Option<&'r KnownContent>,
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
            slot => {
                let insert = self.common.store.insert(FACTS).await.map_err(clickhouse)?;
                slot.insert(insert)
            }
        };
        insert.write(row).await.map_err(clickhouse)
    }

    /// Ends the insert and waits until ClickHouse has acknowledged the batch.
    async fn finish(self) -> Result<Delivery, Fault> {
        if let Some(insert) = self.insert {
            crash::point("clickhouse", "sent");
            insert.end().await.map_err(clickhouse)?;
        }
        Ok(self.delivery)
    }
}
