//! Statistics of a sink, the single source of both `/status` and `/metrics`.
//! Updated once per batch, not per record.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{
    FlushOutcome, Tally,
    lag::{Density, Lag},
    meter::{LastMinute, Meter},
    status::{Halt, PartitionStatus, SinkState, SinkStatus},
};
use crate::{sink_kind::ConsumerGroup, time::clock::now_ms};

/// The sink is reported as degraded if it has more dead letters than this within
/// a minute. Occasional dead letters are not reported.
const MAX_DEAD_LETTERS_PER_MINUTE: u64 = 60;

/// Phase of a whole sink. Shown unless a partition is halted or retrying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Starting, with a description of the current step.
    Starting(String),
    Standby,
    Running,
    Stopped,
}

/// Statistics of one sink.
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
    /// Halts by partition; -1 is the whole sink.
    halts: BTreeMap<i32, Halt>,
    /// Degradations by partition, or by another of the negative numbers below.
    degradations: BTreeMap<i32, Halt>,
    /// Reason of the last failed attempt, by partition, whole sink or log.
    failing: BTreeMap<i32, String>,
    /// Pending work besides the records, by partition.
    pending: BTreeMap<i32, Pending>,
    progress: BTreeMap<i32, Progress>,
    density: Density,
    meter: Meter,
    /// Dead letters within the last minute.
    recent_dead_letters: LastMinute,
}

#[derive(Debug)]
enum Pending {
    /// In progress, with a description of the remaining work.
    InProgress(String),
    /// The last attempt failed for this reason.
    Failing(String),
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    committed: Option<i64>,
    /// Whether this worker made the commit; false if it was only read.
    is_own: bool,
    end: Option<i64>,
}

/// Counts of one batch.
#[derive(Debug, Default)]
pub struct Done<'a> {
    pub applied: u64,
    pub ignored: Tally,
    pub extra_fields: u64,
    pub dead_letters: Vec<&'a str>,
}

/// Pseudo partition number of the whole sink.
pub const WHOLE_SINK: i32 = -1;

/// Pseudo partition number of the log itself.
const LOG: i32 = -2;

/// Pseudo partition number of the source. It sorts before all partitions, so that
/// every partition waits for it.
pub const SOURCE: i32 = -3;

/// Pseudo partition number of the group's committed offsets.
pub const POSITIONS: i32 = -4;

/// Pseudo partition number of the part of the log that the board's window needs.
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
                degradations: BTreeMap::new(),
                failing: BTreeMap::new(),
                pending: BTreeMap::new(),
                progress: BTreeMap::new(),
                density: Density::default(),
                meter: Meter::default(),
                recent_dead_letters: LastMinute::default(),
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

    /// Adds the counts of a batch.
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
            .recent_dead_letters
            .add(Instant::now(), done.dead_letters.len() as u64);
        let total = inner.total();
        inner.meter.record(Instant::now(), total);
    }

    /// Records that the store acknowledged a write.
    pub fn wrote(&self, partition: i32) {
        let mut inner = self.lock();
        inner.last_write_ms = Some(now_ms());
        inner.failing.remove(&partition);
    }

    /// Records a failed attempt that will be retried.
    pub fn failed(&self, partition: i32, reason: &str) {
        let mut inner = self.lock();
        inner.retries += 1;
        inner.failing.insert(partition, reason.to_owned());
    }

    /// Records the outcome of a flush of pending work.
    pub fn flushed(&self, partition: i32, outcome: FlushOutcome) {
        let mut inner = self.lock();
        match outcome {
            FlushOutcome::Done => inner.pending.remove(&partition),
            FlushOutcome::More(left) => inner.pending.insert(partition, Pending::InProgress(left)),
        };
    }

    /// Records a failed flush that will be retried. Records are processed in the
    /// meantime.
    pub fn flush_failed(&self, partition: i32, reason: &str) {
        let mut inner = self.lock();
        inner.retries += 1;
        let failing = Pending::Failing(reason.to_owned());
        inner.pending.insert(partition, failing);
    }

    /// Clears the failure of a partition without recording a write.
    pub fn recovered(&self, partition: i32) {
        self.lock().failing.remove(&partition);
    }

    /// Records a halt. Returns true unless the same halt was already recorded.
    pub fn halt(&self, partition: i32, halt: Halt) -> bool {
        let before = self.lock().halts.insert(partition, halt.clone());
        before != Some(halt)
    }

    /// Clears the halt of a partition.
    pub fn unhalt(&self, partition: i32) {
        self.lock().halts.remove(&partition);
    }

    /// Returns true if the sink is halted and `partition` has to wait. Only the
    /// first halted partition retries.
    pub fn has_to_wait(&self, partition: i32) -> bool {
        let inner = self.lock();
        inner
            .halts
            .keys()
            .next()
            .is_some_and(|first| *first != partition)
    }

    /// Sets or clears the reason why the stored data is unreliable although the
    /// sink works.
    pub fn set_degradation(&self, partition: i32, degradation: Option<Halt>) {
        let mut inner = self.lock();
        match degradation {
            Some(degradation) => inner.degradations.insert(partition, degradation),
            None => inner.degradations.remove(&partition),
        };
    }

    /// Returns true if the source keeps the sink halted.
    pub fn is_held_by_source(&self) -> bool {
        self.lock().halts.contains_key(&SOURCE)
    }

    /// Records that `offsets` offsets with `records` records were processed.
    pub fn passed(&self, records: usize, offsets: i64) {
        let offsets = u64::try_from(offsets).unwrap_or(0);
        self.lock().density.passed(records as u64, offsets);
    }

    /// Records that this worker has committed the offset `next`.
    pub fn committed(&self, partition: i32, next: i64) {
        let mut inner = self.lock();
        let progress = inner.progress.entry(partition).or_default();
        progress.committed = Some(next);
        progress.is_own = true;
    }

    /// Returns the partitions for which this worker has committed an offset.
    pub fn own_commits(&self) -> Vec<i32> {
        let inner = self.lock();
        let committed = inner
            .progress
            .iter()
            .filter(|(_, progress)| progress.is_own);
        committed.map(|(partition, _)| *partition).collect()
    }

    /// Adds a partition that was assigned to this worker.
    pub fn claimed(&self, partition: i32, committed: Option<i64>) {
        self.lock().progress.insert(
            partition,
            Progress {
                committed,
                ..Progress::default()
            },
        );
    }

    /// Removes a revoked partition.
    pub fn released(&self, partition: i32) {
        let mut inner = self.lock();
        inner.progress.remove(&partition);
        inner.failing.remove(&partition);
        inner.pending.remove(&partition);
        inner.halts.remove(&partition);
        inner.degradations.remove(&partition);
    }

    /// Records that the end offsets cannot be read, so the lag is unknown.
    pub fn lost_sight(&self, reason: &str) {
        let mut inner = self.lock();
        inner.failing.insert(LOG, reason.to_owned());
        for progress in inner.progress.values_mut() {
            progress.end = None;
        }
    }

    /// Sets the end offsets, indexed by partition.
    pub fn set_ends(&self, ends: &[i64]) {
        let mut inner = self.lock();
        inner.failing.remove(&LOG);
        for (partition, end) in (0..).zip(ends) {
            if let Some(progress) = inner.progress.get_mut(&partition) {
                progress.end = Some(*end);
            }
        }
    }

    /// Returns a snapshot of the status.
    pub fn status(&self) -> SinkStatus {
        let mut inner = self.lock();
        let (state, detail) = inner.state();
        let recent = inner.recent_dead_letters.count(Instant::now());
        let degradation = inner
            .degradation()
            .or_else(|| self.many_dead_letters(recent));
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
            degradation,
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
    /// Returns a degradation if `count` dead letters within the last minute are
    /// too many.
    fn many_dead_letters(&self, count: u64) -> Option<Halt> {
        (count > MAX_DEAD_LETTERS_PER_MINUTE).then(|| Halt {
            code: "many_dead_letters".to_owned(),
            reason: format!("{count} dead letters in the last minute"),
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

    /// Returns the degradation to show. One of the sink itself has priority over
    /// one of the source.
    fn degradation(&self) -> Option<Halt> {
        let mut of_sink = self
            .degradations
            .iter()
            .filter(|(partition, _)| **partition != SOURCE);
        let first = of_sink.next().map(|(_, degradation)| degradation);
        first.or(self.degradations.get(&SOURCE)).cloned()
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
            Phase::Starting(step) => (SinkState::Starting, Some(step.clone())),
            Phase::Standby => (
                SinkState::Standby,
                Some("another worker publishes the board".to_owned()),
            ),
            Phase::Running => (SinkState::Running, in_progress),
            Phase::Stopped => (SinkState::Stopped, None),
        }
    }

    /// Returns the lag. `None` if the end offset of any partition is unknown.
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
