//! One pass over the log, a partition at a time: every record has become
//! something. What has to be compared, the calls to the external system among
//! it, is put away in heaps meanwhile, so that memory does not grow with the log.

use std::{collections::HashMap, io};

use super::{
    context::Context,
    error::VerifyError,
    findings::{Check, Difference, Findings},
    ledger::{self, Call, Changed, Latest, Made, Stands},
    letters::Letters,
};
use crate::{
    debezium::FactDecoder,
    kafka::{Bounds, Log, Scan, Stretch},
    progress::Unit,
    runtime::{Notes, barrier::Fence},
    sink_kind::{ConsumerGroup, SinkKind},
    source::tables::{events_topic, group, reader_group},
    spill::bucket::{Heap, Spill},
};

/// Whether a row stands where its event has no change: at a record that was
/// read and is another's, or past the end of the log. In between it may have
/// changed since.
fn is_ahead(found: i64, read_until: i64, end: i64) -> bool {
    found < read_until || found >= end
}

/// Walks the log up to its end, and judges what lies before the fence.
pub(crate) struct Walk<'a> {
    context: &'a Context<'a>,
    fence: &'a Fence,
    pub letters: &'a Letters,
    /// History as ClickHouse has it.
    life: Life,
    /// By partition, up to where the source has made up for what the external
    /// system was not told of the log.
    reconciled: Vec<i64>,
    topic: String,
    decoder: FactDecoder,
    /// So many heaps are made of whatever is compared.
    heaps: usize,
    /// Records from before that history.
    earlier: u64,
    records: Findings,
}

/// What the log tells the external system.
pub(crate) struct Told {
    pub calls: Option<Spill<Call>>,
    /// The log still has all of history.
    pub is_whole: bool,
}

/// Where history begins in ClickHouse.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// By partition of the events; empty is at the start of the log.
    pub starts: Vec<i64>,
    /// It began anew at least once.
    pub is_rebuilt: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        fence: &'a Fence,
        letters: &'a Letters,
        life: Life,
        heaps: usize,
    ) -> Self {
        let settings = context.settings;
        Self {
            context,
            fence,
            letters,
            life,
            reconciled: Vec::new(),
            topic: events_topic(settings),
            decoder: FactDecoder::with_placeholders(
                context.tables.facts.clone(),
                context.placeholders.facts(),
            ),
            heaps,
            earlier: 0,
            records: Findings::new(Check::Records),
        }
    }

    /// Does all of it. The calls are put away where they can be compared.
    pub(crate) async fn run(&mut self, puts_calls_away: bool) -> Result<Told, VerifyError> {
        let reader = reader_group(self.context.settings, "verify");
        let log = self.context.connections.kafka.log(&reader)?;
        // Read after the calls were listed: what they are of is in it.
        let bounds = log.bounds(&self.topic).await?;
        self.reconciled = self.reconciled(&log).await?;
        let calls = puts_calls_away.then(|| Spill::new(self.context.scratch, self.heaps));
        let mut calls = calls.transpose()?;
        for (partition, bounds) in (0..).zip(&bounds) {
            let changes = self.partition(partition, *bounds, calls.as_mut()).await?;
            if self.context.has(SinkKind::ClickHouse) {
                self.rows(&log, partition, bounds.end, changes).await?;
            }
        }
        self.commits(&bounds).await?;
        if self.earlier > 0 && self.context.has(SinkKind::ClickHouse) {
            let earlier = self.earlier;
            self.records.note(format!(
                "{earlier} records from before the last rebuild are not judged by clickhouse's rows"
            ));
        }
        // Without ClickHouse a recreated topic begins no generation, and the source is
        // read for the external system.
        let is_rebuilt = self.life.is_rebuilt
            || !self.context.has(SinkKind::ClickHouse) && !self.reconciled.is_empty();
        let is_whole = !is_rebuilt && bounds.iter().all(|bounds| bounds.start == 0);
        Ok(Told { calls, is_whole })
    }

    /// What became of the records.
    pub(crate) fn into_records(self) -> Findings {
        self.records
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

    /// Where the present life of the partition begins in ClickHouse.
    fn start(&self, partition: i32) -> i64 {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.life.starts.get(place).copied().unwrap_or(0)
    }

    /// Where the fence is.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.fence.events.get(place).copied().unwrap_or(0)
    }

    fn scan(&self, stretch: Stretch) -> Result<Scan, VerifyError> {
        let reader = reader_group(self.context.settings, "verify");
        let kafka = &self.context.connections.kafka;
        Ok(kafka.scan(&reader, &self.topic, &[stretch])?)
    }

    /// Reads one partition and puts away what it changes and what it tells; what
    /// lies behind the fence only counts as known.
    async fn partition(
        &mut self,
        partition: i32,
        bounds: Bounds,
        mut calls: Option<&mut Spill<Call>>,
    ) -> Result<Spill<Changed>, VerifyError> {
        let snapshots = self.context.settings.external.include_snapshots;
        let mut scan = self.scan(Stretch {
            partition,
            from: bounds.start,
            until: Some(bounds.end),
        })?;
        let mut changes = Spill::new(self.context.scratch, self.heaps)?;
        let (start, end) = (self.start(partition), self.end(partition));
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let reconciled = self.reconciled.get(place).copied().unwrap_or(0);
        while let Some(seen) = scan.next().await? {
            let offset = seen.offset;
            let (judged, earlier) = (offset < end, offset < start.min(end));
            let made = ledger::read(&self.decoder, &seen.record(&self.topic), snapshots);
            self.earlier += u64::from(earlier && made != Made::Truncate);
            match made {
                Made::Row(event, latest, call) => {
                    let later = !judged;
                    if !earlier {
                        changes.push(&Changed {
                            event,
                            latest,
                            later,
                        })?;
                    }
                    if let (Some(calls), Some(call)) = (&mut calls, call) {
                        calls.push(&call)?;
                    }
                }
                Made::Rejected { of_shape } if judged => {
                    // Of what is made up for from the source it ignores the shape.
                    let told = !of_shape || offset >= reconciled;
                    let rejects = |sink: &SinkKind| match sink {
                        // It reads fewer columns, and only the records of its window.
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

    /// The body of the call that a record makes, where the log still has it.
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

    /// A record that nobody understands has to be a dead letter of each of these
    /// sinks; then it is excused, once.
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

    /// Each event's row has to stand at its latest change, or at one that came
    /// later.
    async fn rows(
        &mut self,
        log: &Log,
        partition: i32,
        read_until: i64,
        changes: Spill<Changed>,
    ) -> Result<(), VerifyError> {
        let mut stands = Spill::new(self.context.scratch, self.heaps)?;
        let mut origins = self.context.query.origins(partition)?;
        while let Some(origin) = origins.next().await? {
            stands.push(&Stands {
                event: origin.event_id,
                offset: origin.offset,
                version_offset: origin.version_offset,
            })?;
        }
        // Read after the rows: whatever they stand at was in the log by now.
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let ends = log.ends(&self.topic).await?;
        let end = ends.get(place).copied().unwrap_or(0);
        for (changes, stands) in changes.heaps()?.into_iter().zip(stands.heaps()?) {
            self.heap(partition, (read_until, end), changes, stands)?;
        }
        Ok(())
    }

    /// Compares one heap.
    fn heap(
        &mut self,
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
            // In the log's order: the last one stays.
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
                self.behind(partition, stand.event, change, Some(stand.offset))?;
            } else if highest > known.offset && is_ahead(highest, read_until, end) {
                self.behind(partition, stand.event, known, Some(highest))?;
            }
        }
        for (id, change) in latest {
            // A delete of a row that was never stored leaves nothing to store.
            if !change.deleted {
                self.behind(partition, id, change, None)?;
            }
        }
        Ok(())
    }

    fn behind(
        &mut self,
        partition: i32,
        event: i64,
        change: Latest,
        found: Option<i64>,
    ) -> io::Result<()> {
        let (sink, offset) = (SinkKind::ClickHouse, change.offset);
        if self.letters.has(sink, partition, offset)? {
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

    /// Nobody can have done more than there is.
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
