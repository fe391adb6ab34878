//! One pass over the log, a partition at a time: every record has become
//! something, and every insert was told to the external system.

use std::{collections::HashMap, fmt::Write as _};

use super::{
    Context, VerifyError,
    findings::{Check, Difference, Findings},
    ledger::{Call, Calls, Entry, Latest, Ledger, Received, digest},
    letters::Letters,
};
use crate::{
    clients::kafka::{Bounds, Log, Scan, Stretch},
    event::{FactDecoder, SourceTable},
    operations::fence::{Fence, consumer, events_topic, group},
    progress::Unit,
};

/// Body shown of a call that is missing, in characters.
const EXCERPT: usize = 300;

/// What one partition's records come to.
struct Read {
    partition: i32,
    /// One past the last record that was read.
    until: i64,
    /// Event → its latest change before the fence.
    judged: HashMap<i64, Latest>,
    /// Event → its latest change behind the fence.
    later: HashMap<i64, Latest>,
}

/// Whether a row stands where its event has no change: at a record that was
/// read and is another's, or past the end of the log. In between it may have
/// changed since.
fn is_ahead(found: i64, read_until: i64, end: i64) -> bool {
    found < read_until || found >= end
}

/// Walks the log up to its end, and judges what lies before the fence.
pub(super) struct Walk<'a> {
    pub context: &'a Context<'a>,
    pub fence: &'a Fence,
    pub letters: &'a Letters,
    /// What the external system has had; none where it cannot be asked.
    pub calls: Option<Calls>,
    /// History as ClickHouse has it.
    pub life: Life,
    /// Records from before that.
    earlier: u64,
    pub records: Findings,
    pub external: Findings,
}

/// Where history begins in ClickHouse.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    /// By partition of the events; empty is at the start of the log.
    pub starts: Vec<i64>,
    /// It began anew at least once.
    pub is_rebuilt: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        context: &'a Context<'a>,
        fence: &'a Fence,
        letters: &'a Letters,
        calls: Option<Calls>,
        life: Life,
    ) -> Self {
        let external = if calls.is_some() {
            Findings::new(Check::External)
        } else {
            let why = "the external system is not fanout's stub and cannot be asked";
            Findings::skipped(Check::External, why)
        };
        Self {
            context,
            fence,
            letters,
            calls,
            life,
            earlier: 0,
            records: Findings::new(Check::Records),
            external,
        }
    }

    /// Does all of it.
    pub(super) async fn run(mut self) -> Result<(Findings, Findings), VerifyError> {
        let settings = self.context.settings;
        let topic = events_topic(settings);
        let log = Log::new(&consumer(settings), &group(settings, "verify"))?;
        // Read after the calls were listed: what they are of is in it.
        let bounds = log.bounds(&topic).await?;
        for (partition, bounds) in (0..).zip(&bounds) {
            let read = self.partition(&topic, partition, *bounds).await?;
            if self.context.has("clickhouse") {
                self.rows(&log, &topic, read).await?;
            }
        }
        self.commits(&topic, &bounds).await?;
        self.unknown_calls(&bounds);
        if self.earlier > 0 && self.context.has("clickhouse") {
            let earlier = self.earlier;
            self.records.note(format!(
                "{earlier} records from before the last rebuild are not judged by clickhouse's rows"
            ));
        }
        Ok((self.records, self.external))
    }

    /// Where the present life of the partition begins in ClickHouse.
    fn start(&self, partition: i32) -> i64 {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.life.starts.get(place).copied().unwrap_or(0)
    }

    fn end(&self, partition: i32) -> i64 {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.fence.events.get(place).copied().unwrap_or(0)
    }

    /// Adds up one partition; what lies behind the fence only counts as known.
    async fn partition(
        &mut self,
        topic: &str,
        partition: i32,
        bounds: Bounds,
    ) -> Result<Read, VerifyError> {
        let settings = self.context.settings;
        let decoder = FactDecoder::new(SourceTable {
            prefix: settings.kafka.topic_prefix.clone(),
            schema: "public".to_owned(),
            table: "engagement_events".to_owned(),
        });
        let snapshots = settings.external.include_snapshots;
        let stretch = Stretch {
            partition,
            from: bounds.start,
            until: Some(bounds.end),
        };
        let reader = group(settings, "verify");
        let mut scan = Scan::start(&consumer(settings), &reader, topic, &[stretch])?;
        let (mut ledger, mut later) = (Ledger::default(), Ledger::default());
        let mut earlier = Ledger::default();
        let (start, end) = (self.start(partition), self.end(partition));
        while let Some(seen) = scan.next().await? {
            let judged = seen.offset < end;
            let into = match judged {
                true if seen.offset < start => &mut earlier,
                true => &mut ledger,
                false => &mut later,
            };
            let entry = into.add(&decoder, &seen.record(topic), snapshots);
            self.records.compared += u64::from(judged);
            self.entry(entry, partition, seen.offset, judged);
            if self.records.compared.is_multiple_of(10_000) {
                let total: i64 = self.fence.events.iter().sum();
                let total = total.unsigned_abs().max(self.records.compared);
                let steps = &self.context.steps;
                steps.advanced(self.records.compared, Some(total), Unit::Records);
            }
        }
        self.earlier += earlier.applied + earlier.ignored + earlier.rejected;
        Ok(Read {
            partition,
            until: bounds.end,
            judged: ledger.latest,
            later: later.latest,
        })
    }

    fn entry(&mut self, entry: Entry, partition: i32, offset: i64, judged: bool) {
        match entry {
            Entry::Taken(Some(call)) => self.call(&call, partition, offset, judged),
            Entry::Rejected if judged => {
                if offset >= self.start(partition) {
                    self.rejected("clickhouse", partition, offset);
                }
                self.rejected("http", partition, offset);
            }
            Entry::Truncate if judged => {
                let note = format!("truncated at {partition}@{offset}");
                self.records.note(note);
            }
            Entry::Taken(None) | Entry::Rejected | Entry::Truncate => {}
        }
    }

    /// Each insert has to have been told, under its key and with its body.
    fn call(&mut self, call: &Call, partition: i32, offset: i64, judged: bool) {
        let Some(calls) = &mut self.calls else { return };
        let received = calls.received(call);
        if !judged || !call.required {
            return;
        }
        self.external.compared += 1;
        match received {
            Received::Yes => {}
            _ if self.letters.has("http", partition, offset) => self.external.excuse(&call.key),
            Received::No => {
                let body = String::from_utf8_lossy(&call.body);
                let body: String = body.chars().take(EXCERPT).collect();
                let what = format!("{partition}@{offset} {body}");
                let missing = Difference::missing(Check::External, &call.key, &what);
                self.external.differs(missing);
            }
            Received::Otherwise(sha) => {
                let text = |sha: &[u8]| Some(format!("sha256 {}", hex(sha)));
                let (expected, found) = (text(&digest(&call.body)), text(&sha));
                let check = Check::External;
                let differs = Difference::of(check, &call.key, "body", expected, found);
                self.external.differs(differs);
            }
        }
    }

    /// A record that nobody understands has to be among the dead letters.
    fn rejected(&mut self, sink: &str, partition: i32, offset: i64) {
        if !self.context.has(sink) {
            return;
        }
        let id = format!("{partition}@{offset}");
        if self.letters.has(sink, partition, offset) {
            self.records.excuse(&id);
        } else {
            let what = format!("a dead letter of {sink}");
            self.records
                .differs(Difference::missing(Check::Records, &id, &what));
        }
    }

    /// Each event's row has to stand at its latest change, or at one that came
    /// later.
    async fn rows(&mut self, log: &Log, topic: &str, read: Read) -> Result<(), VerifyError> {
        let partition = read.partition;
        let mut latest = read.judged;
        let mut ahead = Vec::new();
        let mut origins = self.context.query.origins(partition)?;
        while let Some(origin) = origins.next().await? {
            let Some(change) = latest.remove(&origin.event_id) else {
                continue;
            };
            let known = read.later.get(&origin.event_id).copied().unwrap_or(change);
            let highest = origin.offset.max(origin.version_offset);
            if origin.offset < change.offset {
                self.behind(partition, origin.event_id, change, Some(origin.offset));
            } else if highest > known.offset {
                ahead.push((origin.event_id, known, highest));
            }
        }
        for (id, change) in latest {
            // A delete of a row that was never stored leaves nothing to store.
            if !change.deleted {
                self.behind(partition, id, change, None);
            }
        }
        if ahead.is_empty() {
            return Ok(());
        }
        // Read after the rows: whatever they stand at was in the log by now.
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let end = log.ends(topic).await?.get(place).copied().unwrap_or(0);
        for (id, known, found) in ahead {
            if is_ahead(found, read.until, end) {
                self.behind(partition, id, known, Some(found));
            }
        }
        Ok(())
    }

    fn behind(&mut self, partition: i32, event: i64, change: Latest, found: Option<i64>) {
        if self.letters.has("clickhouse", partition, change.offset) {
            self.records.excuse(&event);
            return;
        }
        let position = |offset: i64| format!("{partition}@{offset}");
        self.records.differs(Difference::of(
            Check::Records,
            &format!("event {event}"),
            "latest record applied",
            Some(position(change.offset)),
            found.map(position),
        ));
    }

    /// Nobody can have done more than there is.
    async fn commits(&mut self, topic: &str, bounds: &[Bounds]) -> Result<(), VerifyError> {
        let settings = self.context.settings;
        for group in &self.context.groups {
            let log = Log::new(&consumer(settings), group)?;
            let commits = log.commits(topic, bounds.len()).await?;
            let ends = log.ends(topic).await?;
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

    /// What the external system has had and the log does not know.
    fn unknown_calls(&mut self, bounds: &[Bounds]) {
        let Some(calls) = &self.calls else { return };
        let unknown: Vec<String> = calls.unknown().collect();
        if unknown.is_empty() {
            return;
        }
        if self.life.is_rebuilt || bounds.iter().any(|bounds| bounds.start > 0) {
            let count = unknown.len();
            self.external.note(format!(
                "{count} keys are not judged: the log no longer has all of history"
            ));
            return;
        }
        for key in unknown {
            self.external
                .differs(Difference::extra(Check::External, &key, &"a call"));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
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
