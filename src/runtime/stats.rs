//! What a sink has done and is doing, counted once, for `/status` and
//! `/metrics` alike. Updated once a batch, never once a record.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{
    Settled, Tally,
    lag::{Density, Lag},
    meter::{LastMinute, Meter},
    status::{Halt, PartitionStatus, SinkState, SinkStatus},
};
use crate::{sink_kind::ConsumerGroup, time::clock::now_ms};

/// More dead letters than this in a minute are worth a look: what is rejected
/// now and then is not.
const MANY_LETTERS: u64 = 60;

/// What a sink does as a whole, when no partition is in trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// With what it is busy.
    Starting(String),
    Standby,
    Running,
    Stopped,
}

/// Numbers of one sink.
#[derive(Debug)]
pub struct SinkStats {
    group: ConsumerGroup,
    topic: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    applied: u64,
    ignored: BTreeMap<String, u64>,
    dead_letters: BTreeMap<String, u64>,
    extra_fields: u64,
    retries: u64,
    last_write_ms: Option<i64>,
    /// By partition; -1 is the sink as a whole.
    halts: BTreeMap<i32, Halt>,
    /// By partition, or what else they are about.
    cautions: BTreeMap<i32, Halt>,
    /// By partition, the whole sink or the log: what the last try failed with.
    failing: BTreeMap<i32, String>,
    /// By partition: work that is pending besides its records.
    pending: BTreeMap<i32, Pending>,
    progress: BTreeMap<i32, Progress>,
    density: Density,
    meter: Meter,
    /// Dead letters of the last minute.
    letters: LastMinute,
}

#[derive(Debug)]
enum Pending {
    /// In progress, with what is left.
    InProgress(String),
    /// The last attempt failed with this.
    Failing(String),
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    committed: Option<i64>,
    /// The commit was made by this worker, not read.
    is_own: bool,
    end: Option<i64>,
}

/// What a batch adds.
#[derive(Debug, Default)]
pub struct Done<'a> {
    pub applied: u64,
    pub ignored: Tally,
    pub extra_fields: u64,
    pub dead_letters: Vec<&'a str>,
}

/// The partition number that stands for the whole sink.
pub const WHOLE_SINK: i32 = -1;

/// The one that stands for the log itself.
const LOG: i32 = -2;

/// The one that stands for the source: the first of all, so that every partition
/// waits for it.
pub const SOURCE: i32 = -3;

/// The one that stands for the group's positions.
pub const POSITIONS: i32 = -4;

/// The one that stands for what the board's window needs of the log.
pub const WINDOW: i32 = -5;

impl SinkStats {
    pub fn new(group: ConsumerGroup, topic: impl Into<String>) -> Self {
        Self {
            group,
            topic: topic.into(),
            inner: Mutex::new(Inner {
                phase: Phase::Starting("connecting".to_owned()),
                applied: 0,
                ignored: BTreeMap::new(),
                dead_letters: BTreeMap::new(),
                extra_fields: 0,
                retries: 0,
                last_write_ms: None,
                halts: BTreeMap::new(),
                cautions: BTreeMap::new(),
                failing: BTreeMap::new(),
                pending: BTreeMap::new(),
                progress: BTreeMap::new(),
                density: Density::default(),
                meter: Meter::default(),
                letters: LastMinute::default(),
            }),
        }
    }

    pub fn group(&self) -> ConsumerGroup {
        self.group
    }

    pub fn name(&self) -> &'static str {
        self.group.name()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Adds what a committed batch did.
    pub fn add(&self, done: &Done<'_>) {
        let mut inner = self.lock();
        inner.applied += done.applied;
        inner.extra_fields += done.extra_fields;
        for (reason, count) in &done.ignored {
            *inner.ignored.entry((*reason).to_owned()).or_default() += count;
        }
        for code in &done.dead_letters {
            *inner.dead_letters.entry((*code).to_owned()).or_default() += 1;
        }
        inner
            .letters
            .add(Instant::now(), done.dead_letters.len() as u64);
        let total = inner.total();
        inner.meter.record(Instant::now(), total);
    }

    /// The store acknowledged a write.
    pub fn wrote(&self, partition: i32) {
        let mut inner = self.lock();
        inner.last_write_ms = Some(now_ms());
        inner.failing.remove(&partition);
    }

    /// A try failed; the next one follows.
    pub fn failed(&self, partition: i32, reason: &str) {
        let mut inner = self.lock();
        inner.retries += 1;
        inner.failing.insert(partition, reason.to_owned());
    }

    /// A part of the work that was pending besides the records is done.
    pub fn settled(&self, partition: i32, settled: Settled) {
        let mut inner = self.lock();
        match settled {
            Settled::Done => inner.pending.remove(&partition),
            Settled::More(left) => inner.pending.insert(partition, Pending::InProgress(left)),
        };
    }

    /// That work failed and will be retried; records continue meanwhile.
    pub fn unsettled(&self, partition: i32, reason: &str) {
        let mut inner = self.lock();
        inner.retries += 1;
        let failing = Pending::Failing(reason.to_owned());
        inner.pending.insert(partition, failing);
    }

    /// The trouble is over, without a write.
    pub fn recovered(&self, partition: i32) {
        self.lock().failing.remove(&partition);
    }

    /// Returns whether that is news.
    pub fn halt(&self, partition: i32, halt: Halt) -> bool {
        let before = self.lock().halts.insert(partition, halt.clone());
        before != Some(halt)
    }

    pub fn unhalt(&self, partition: i32) {
        self.lock().halts.remove(&partition);
    }

    /// Whether another than `partition` keeps the sink halted and is the one to
    /// look again: of several, the first.
    pub fn waits_for_another(&self, partition: i32) -> bool {
        let inner = self.lock();
        inner
            .halts
            .keys()
            .next()
            .is_some_and(|first| *first != partition)
    }

    /// It works, and what it holds is not to be relied on yet; none once it is.
    pub fn set_caution(&self, partition: i32, caution: Option<Halt>) {
        let mut inner = self.lock();
        match caution {
            Some(caution) => inner.cautions.insert(partition, caution),
            None => inner.cautions.remove(&partition),
        };
    }

    /// Whether the source keeps the sink halted.
    pub fn is_held_by_source(&self) -> bool {
        self.lock().halts.contains_key(&SOURCE)
    }

    /// Read on past so many offsets, of which so many were records.
    pub fn passed(&self, records: usize, offsets: i64) {
        let offsets = u64::try_from(offsets).unwrap_or(0);
        self.lock().density.passed(records as u64, offsets);
    }

    /// This worker has committed that everything before `next` is done.
    pub fn committed(&self, partition: i32, next: i64) {
        let mut inner = self.lock();
        let progress = inner.progress.entry(partition).or_default();
        progress.committed = Some(next);
        progress.is_own = true;
    }

    /// The partitions that this worker has committed of.
    pub fn own_commits(&self) -> Vec<i32> {
        let inner = self.lock();
        let own = inner.progress.iter().filter(|(_, one)| one.is_own);
        own.map(|(partition, _)| *partition).collect()
    }

    /// A partition is this worker's from now on.
    pub fn claimed(&self, partition: i32, committed: Option<i64>) {
        self.lock().progress.insert(
            partition,
            Progress {
                committed,
                ..Progress::default()
            },
        );
    }

    /// A partition is no longer this worker's.
    pub fn released(&self, partition: i32) {
        let mut inner = self.lock();
        inner.progress.remove(&partition);
        inner.failing.remove(&partition);
        inner.pending.remove(&partition);
        inner.halts.remove(&partition);
        inner.cautions.remove(&partition);
    }

    /// The log does not say where it ends: how far behind it the sink is, is
    /// not known.
    pub fn lost_sight(&self, reason: &str) {
        let mut inner = self.lock();
        inner.failing.insert(LOG, reason.to_owned());
        for progress in inner.progress.values_mut() {
            progress.end = None;
        }
    }

    /// Ends of the partitions, by number, freshly read.
    pub fn set_ends(&self, ends: &[i64]) {
        let mut inner = self.lock();
        inner.failing.remove(&LOG);
        for (partition, end) in (0..).zip(ends) {
            if let Some(progress) = inner.progress.get_mut(&partition) {
                progress.end = Some(*end);
            }
        }
    }

    /// A snapshot.
    pub fn status(&self) -> SinkStatus {
        let mut inner = self.lock();
        let (state, detail) = inner.state();
        let letters = inner.letters.count(Instant::now());
        let caution = inner.caution().or_else(|| self.many(letters));
        let lag = inner.lag();
        SinkStatus {
            name: self.name().to_owned(),
            state,
            detail,
            lag: lag.map(|lag| lag.records),
            lag_is_estimate: lag.is_some_and(|lag| lag.is_estimate),
            rate_per_second: inner.rate(),
            last_write_ms: inner.last_write_ms,
            applied: inner.applied,
            ignored: inner.ignored.clone(),
            dead_letters: inner.dead_letters.clone(),
            extra_fields: inner.extra_fields,
            retries: inner.retries,
            halt: inner.halts.values().next().cloned(),
            caution,
            partitions: inner
                .progress
                .iter()
                .map(|(partition, progress)| PartitionStatus {
                    topic: self.topic.clone(),
                    partition: *partition,
                    committed: progress.committed,
                    end: progress.end,
                })
                .collect(),
        }
    }
}

impl SinkStats {
    /// What so many dead letters in the last minute are worth saying.
    fn many(&self, letters: u64) -> Option<Halt> {
        (letters > MANY_LETTERS).then(|| Halt {
            code: "many_dead_letters".to_owned(),
            reason: format!("{letters} dead letters in the last minute"),
            remedy: format!("fanout dlq ls --sink {}", self.group),
        })
    }
}

impl Inner {
    fn total(&self) -> u64 {
        let dead: u64 = self.dead_letters.values().sum();
        let ignored: u64 = self.ignored.values().sum();
        self.applied + ignored + dead
    }

    /// The one that is shown: the sink's own before the source's.
    fn caution(&self) -> Option<Halt> {
        let mut others = self.cautions.iter().filter(|(about, _)| **about != SOURCE);
        let found = others.next().map(|(_, caution)| caution);
        found.or(self.cautions.get(&SOURCE)).cloned()
    }

    fn state(&self) -> (SinkState, Option<String>) {
        if self.phase == Phase::Stopped {
            return (SinkState::Stopped, None);
        }
        if let Some(halt) = self.halts.values().next() {
            return (SinkState::Halted, Some(halt.reason.clone()));
        }
        if let Some(reason) = self.failing.values().next() {
            return (SinkState::Retrying, Some(reason.clone()));
        }
        let mut in_progress = None;
        for pending in self.pending.values() {
            match pending {
                Pending::Failing(reason) => return (SinkState::Retrying, Some(reason.clone())),
                Pending::InProgress(left) => in_progress = in_progress.max(Some(left.clone())),
            }
        }
        match &self.phase {
            Phase::Starting(what) => (SinkState::Starting, Some(what.clone())),
            Phase::Standby => (SinkState::Standby, Some("another worker has it".to_owned())),
            Phase::Running => (SinkState::Running, in_progress),
            Phase::Stopped => (SinkState::Stopped, None),
        }
    }

    /// Unknown as long as any partition's end or commit is.
    fn lag(&self) -> Option<Lag> {
        if self.progress.is_empty() {
            return None;
        }
        let offsets = self.progress.values().try_fold(0, |sum: u64, progress| {
            let behind = progress.end? - progress.committed.unwrap_or(0);
            Some(sum + u64::try_from(behind).unwrap_or(0))
        })?;
        Some(self.density.lag(offsets))
    }

    fn rate(&mut self) -> f64 {
        let total = self.total();
        self.meter.rate(Instant::now(), total)
    }
}

#[cfg(test)]
mod tests;
