//! One pass over the log, one partition at a time, which checks what became of
//! every record. Everything that has to be compared, including the calls to the
//! external system, is first sorted into heaps on disk, so memory does not grow
//! with the log.

use std::{collections::HashMap, io};

use futures_util::TryStreamExt as _;

use super::{
    context::Context,
    error::VerifyError,
    findings::{Check, Difference, Findings},
    ledger::{self, Call, Changed, Latest, Made, Stands},
    letters::Letters,
    store::RowStore,
};
use crate::{
    debezium::FactDecoder,
    kafka::{Bounds, Log, Scan, Stretch, of_partition},
    progress::Unit,
    runtime::{GenerationLog, Notes, barrier::Fence},
    sink_kind::{ConsumerGroup, SinkKind},
    source::tables::{events_topic, group, reader_group},
    spill::bucket::{Heap, Spill, heaps_for},
};

/// Whether a row is at a record that cannot be of its event: one that was read and
/// is of another event, or one past the end of the log. The records in between came
/// later and were not read.
fn is_ahead(found: i64, read_until: i64, end: i64) -> bool {
    found < read_until || found >= end
}

/// Walks the log up to its end, and judges the records before the barrier.
pub(crate) struct Walk<'a> {
    context: &'a Context<'a>,
    fence: &'a Fence,
    pub(crate) letters: &'a Letters,
    /// The sinks whose rows are compared with the log.
    stores: Vec<&'a dyn RowStore>,
    life: Life,
    /// By partition, the offset up to which the source has made up for what the
    /// external system was not told of the log.
    reconciled: Vec<i64>,
    topic: String,
    decoder: FactDecoder,
    /// Number of heaps that everything is sorted into.
    heaps: usize,
    /// Number of records from before the present history.
    earlier: u64,
    records: Findings,
    is_done: bool,
}

/// The calls that the log makes to the external system.
pub(crate) struct Told {
    pub(crate) calls: Spill<Call>,
    /// Whether the log still has all of history.
    pub(crate) is_whole: bool,
}

/// Where the present history of the stored rows begins.
#[derive(Debug, Default)]
struct Life {
    /// By partition of the events' topic. Empty is the start of the log.
    starts: Vec<i64>,
    /// Whether history began anew at least once.
    is_rebuilt: bool,
}

impl Life {
    async fn read(context: &Context<'_>, stores: &[&dyn RowStore]) -> Result<Self, VerifyError> {
        let (settings, kafka) = (context.settings, &context.connections.kafka);
        let reader = reader_group(settings, "verify");
        let state = kafka.state(&reader, &settings.kafka.state_topic)?;
        let latest = GenerationLog::new(state).latest().await;
        if let Some(generation) = latest.map_err(VerifyError::state)? {
            let is_rebuilt = generation.is_rebuilt();
            let starts = generation.begun.facts.starts;
            return Ok(Self {
                starts: if stores.is_empty() {
                    Vec::new()
                } else {
                    starts
                },
                is_rebuilt,
            });
        }
        // No worker has taken over yet what an earlier release recorded.
        for store in stores {
            let mut recorded = store.recorded_starts().await?;
            let is_rebuilt = recorded.len() > 1;
            if let Some(starts) = recorded.pop() {
                return Ok(Self { starts, is_rebuilt });
            }
        }
        Ok(Self::default())
    }
}

impl<'a> Walk<'a> {
    /// Prepares the walk. Nothing is read yet.
    pub(super) fn new(
        context: &'a Context<'a>,
        fence: &'a Fence,
        letters: &'a Letters,
        stores: Vec<&'a dyn RowStore>,
    ) -> Self {
        Self {
            context,
            fence,
            letters,
            stores,
            life: Life::default(),
            reconciled: Vec::new(),
            topic: events_topic(context.settings),
            decoder: FactDecoder::with_placeholders(
                context.tables.facts.clone(),
                context.placeholders.facts(),
            ),
            heaps: heaps_for(fence.events.iter().sum::<i64>().unsigned_abs()),
            earlier: 0,
            records: Findings::new(Check::Records),
            is_done: false,
        }
    }

    /// Number of heaps that everything is sorted into. Only equally many heaps can
    /// be compared with each other.
    pub(crate) fn heaps(&self) -> usize {
        self.heaps
    }

    /// Walks the log and returns the calls that it makes to the external system.
    pub(crate) async fn calls(&mut self) -> Result<Told, VerifyError> {
        let mut calls = Spill::new(self.context.scratch, self.heaps)?;
        let is_whole = self.run(Some(&mut calls)).await?;
        Ok(Told { calls, is_whole })
    }

    /// Returns what became of the records. Walks the log unless that was done for
    /// the calls.
    pub(super) async fn into_records(mut self) -> Result<Findings, VerifyError> {
        if !self.is_done {
            self.run(None).await?;
        }
        Ok(self.records)
    }

    /// Walks the log. Returns whether it still has all of history.
    async fn run(&mut self, mut calls: Option<&mut Spill<Call>>) -> Result<bool, VerifyError> {
        self.context.steps.doing("reading the log");
        self.life = Life::read(self.context, &self.stores).await?;
        let reader = reader_group(self.context.settings, "verify");
        let log = self.context.connections.kafka.log(&reader)?;
        // Read after the calls were listed, so their records are before the end.
        let bounds = log.bounds(&self.topic).await?;
        self.reconciled = self.reconciled(&log).await?;
        for (partition, bounds) in (0..).zip(&bounds) {
            let changes = self
                .partition(partition, *bounds, calls.as_deref_mut())
                .await?;
            for (store, changes) in self.stores.clone().into_iter().zip(changes) {
                self.rows(store, &log, (partition, bounds.end), changes)
                    .await?;
            }
        }
        self.commits(&bounds).await?;
        if self.earlier > 0 {
            let earlier = self.earlier;
            for store in &self.stores {
                self.records.note(format!(
                    "{earlier} records from before the last rebuild are not judged by {}'s rows",
                    store.sink()
                ));
            }
        }
        self.is_done = true;
        // Without stored rows a recreated topic begins no generation, and the source
        // is read for the external system.
        let is_rebuilt =
            self.life.is_rebuilt || self.stores.is_empty() && !self.reconciled.is_empty();
        Ok(!is_rebuilt && bounds.iter().all(|bounds| bounds.start == 0))
    }

    async fn reconciled(&self, log: &Log) -> Result<Vec<i64>, VerifyError> {
        let Some(identity) = log.identity(&self.topic).await? else {
            return Ok(Vec::new());
        };
        let settings = self.context.settings;
        let group = group(settings, ConsumerGroup::Http);
        let kafka = &self.context.connections.kafka;
        let state = kafka.state(&group, &settings.kafka.state_topic)?;
        let reconciled = Notes::new(state, &group).reconciled(identity.id).await;
        reconciled.map_err(VerifyError::state)
    }

    /// Returns the offset at which the present history of a partition begins.
    fn start(&self, partition: i32) -> i64 {
        of_partition(&self.life.starts, partition)
            .copied()
            .unwrap_or(0)
    }

    /// Returns the offset of the barrier in a partition.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        of_partition(&self.fence.events, partition)
            .copied()
            .unwrap_or(0)
    }

    fn scan(&self, stretch: Stretch) -> Result<Scan, VerifyError> {
        let reader = reader_group(self.context.settings, "verify");
        let kafka = &self.context.connections.kafka;
        Ok(kafka.scan(&reader, &self.topic, &[stretch])?)
    }

    /// Reads one partition. Sorts its calls into heaps, and its changes once for each
    /// store. Records behind the barrier are known but not judged.
    async fn partition(
        &mut self,
        partition: i32,
        bounds: Bounds,
        mut calls: Option<&mut Spill<Call>>,
    ) -> Result<Vec<Spill<Changed>>, VerifyError> {
        let snapshots = self.context.settings.external.include_snapshots;
        let mut scan = self.scan(Stretch {
            partition,
            from: bounds.start,
            until: Some(bounds.end),
        })?;
        let mut changes: Vec<Spill<Changed>> = Vec::with_capacity(self.stores.len());
        for _ in &self.stores {
            changes.push(Spill::new(self.context.scratch, self.heaps)?);
        }
        let (start, end) = (self.start(partition), self.end(partition));
        let reconciled = of_partition(&self.reconciled, partition)
            .copied()
            .unwrap_or(0);
        while let Some(seen) = scan.next().await? {
            let offset = seen.offset;
            let (judged, earlier) = (offset < end, offset < start.min(end));
            let made = ledger::read(&self.decoder, &seen.record(&self.topic), snapshots);
            self.earlier += u64::from(earlier && made != Made::Truncate);
            match made {
                Made::Row(event, latest, call) => {
                    let changed = Changed {
                        event,
                        latest,
                        later: !judged,
                    };
                    if !earlier {
                        for of_store in &mut changes {
                            of_store.push(&changed)?;
                        }
                    }
                    if let (Some(calls), Some(call)) = (&mut calls, call) {
                        calls.push(&call)?;
                    }
                }
                Made::Rejected { of_shape } if judged => {
                    // HTTP ignores the shape of records that the source made up for.
                    let told = !of_shape || offset >= reconciled;
                    let rejects = |sink: &SinkKind| match sink {
                        // The board reads fewer columns, and only records of its window.
                        SinkKind::Redis => false,
                        SinkKind::ClickHouse => !earlier,
                        SinkKind::Http => told,
                    };
                    let sinks: Vec<SinkKind> = SinkKind::ALL.into_iter().filter(rejects).collect();
                    self.rejected(&sinks, partition, offset)?;
                }
                Made::Truncate if judged => {
                    self.records
                        .note(format!("truncated at {partition}@{offset}"));
                }
                Made::Rejected { .. } | Made::Truncate | Made::Ignored => {}
            }
            self.records.compared += u64::from(judged);
            self.advanced();
        }
        Ok(changes)
    }

    fn advanced(&self) {
        let done = self.records.compared;
        if done.is_multiple_of(10_000) {
            let total: i64 = self.fence.events.iter().sum();
            let total = total.unsigned_abs().max(done);
            let steps = &self.context.steps;
            steps.advanced(done, Some(total), Unit::Records);
        }
    }

    /// Returns the body of the call that a record makes, if the log still has it.
    pub(crate) async fn body(
        &self,
        partition: i32,
        offset: i64,
    ) -> Result<Option<Vec<u8>>, VerifyError> {
        let mut scan = self.scan(Stretch {
            partition,
            from: offset,
            until: Some(offset + 1),
        })?;
        let seen = scan.next().await?;
        Ok(seen.and_then(|seen| ledger::body(&self.decoder, &seen.record(&self.topic))))
    }

    /// Judges a record that cannot be decoded: it has to be a dead letter of each of
    /// these sinks. It is excused once.
    fn rejected(&mut self, sinks: &[SinkKind], partition: i32, offset: i64) -> io::Result<()> {
        let id = format!("{partition}@{offset}");
        let mut excused = false;
        for sink in sinks.iter().filter(|sink| self.context.has(**sink)) {
            if self.letters.has(*sink, partition, offset)? {
                excused = true;
            } else {
                let what = format!("a dead letter of {sink}");
                self.records
                    .differs(Difference::missing(Check::Records, &id, &what));
            }
        }
        if excused {
            self.records.excuse(&id);
        }
        Ok(())
    }

    /// Compares the rows of a store with the changes of a partition, which was read
    /// up to an offset. The row of each event has to be at the event's latest change,
    /// or at one that came later.
    async fn rows(
        &mut self,
        store: &dyn RowStore,
        log: &Log,
        (partition, read_until): (i32, i64),
        changes: Spill<Changed>,
    ) -> Result<(), VerifyError> {
        let mut stands = Spill::new(self.context.scratch, self.heaps)?;
        let mut origins = store.origins(partition)?;
        while let Some(piece) = origins.try_next().await? {
            for origin in piece {
                stands.push(&Stands {
                    event: origin.event_id,
                    offset: origin.offset,
                    version_offset: origin.version_offset,
                })?;
            }
        }
        // Read after the rows, so the records that they are at were in the log by then.
        let ends = log.ends(&self.topic).await?;
        let end = of_partition(&ends, partition).copied().unwrap_or(0);
        for (changes, stands) in changes.heaps()?.into_iter().zip(stands.heaps()?) {
            self.heap(store.sink(), partition, (read_until, end), changes, stands)?;
        }
        Ok(())
    }

    /// Compares one heap of changes with one heap of a sink's rows.
    fn heap(
        &mut self,
        sink: SinkKind,
        partition: i32,
        (read_until, end): (i64, i64),
        changes: Heap<Changed>,
        stands: Heap<Stands>,
    ) -> io::Result<()> {
        let (mut latest, mut later) = (HashMap::new(), HashMap::new());
        for change in changes {
            let change = change?;
            let into = if change.later {
                &mut later
            } else {
                &mut latest
            };
            // In the order of the log, so the last change stays.
            into.insert(change.event, change.latest);
        }
        for stand in stands {
            let stand = stand?;
            let Some(change) = latest.remove(&stand.event) else {
                continue;
            };
            let known = later.get(&stand.event).copied().unwrap_or(change);
            let highest = stand.offset.max(stand.version_offset);
            if stand.offset < change.offset {
                self.behind(sink, partition, stand.event, change, Some(stand.offset))?;
            } else if highest > known.offset && is_ahead(highest, read_until, end) {
                self.behind(sink, partition, stand.event, known, Some(highest))?;
            }
        }
        for (id, change) in latest {
            // Deleting a row that was never stored leaves no row.
            if !change.deleted {
                self.behind(sink, partition, id, change, None)?;
            }
        }
        Ok(())
    }

    /// Adds the difference of a row that is not at its change, unless a dead letter
    /// of the sink excuses it.
    fn behind(
        &mut self,
        sink: SinkKind,
        partition: i32,
        event: i64,
        change: Latest,
        found: Option<i64>,
    ) -> io::Result<()> {
        if self.letters.has(sink, partition, change.offset)? {
            self.records.excuse(&event);
            return Ok(());
        }
        let position = |offset: i64| format!("{partition}@{offset}");
        self.records.differs(Difference::of(
            Check::Records,
            &format!("event {event}"),
            "latest record applied",
            Some(position(change.offset)),
            found.map(position),
        ));
        Ok(())
    }

    /// Checks that no consumer group has committed an offset past the end of the log.
    async fn commits(&mut self, bounds: &[Bounds]) -> Result<(), VerifyError> {
        let settings = self.context.settings;
        for sink in self.context.sinks {
            let group = group(settings, sink.events_group());
            let log = self.context.connections.kafka.log(&group)?;
            let commits = log.commits(&self.topic, bounds.len()).await?;
            let ends = log.ends(&self.topic).await?;
            for (partition, (commit, end)) in commits.iter().zip(ends).enumerate() {
                if let Some((offset, _)) = commit
                    && *offset > end
                {
                    self.records.differs(Difference::of(
                        Check::Records,
                        &format!("{group} {partition}"),
                        "committed",
                        Some(format!("at most {end}")),
                        Some(offset.to_string()),
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_ahead;

    #[test]
    fn a_row_may_only_stand_where_its_event_changed() {
        // Read up to 10, and the log has since grown to 15.
        assert!(is_ahead(9, 10, 15), "another event's record");
        assert!(!is_ahead(10, 10, 15), "changed since it was read");
        assert!(is_ahead(15, 10, 15), "past the end");
    }
}
