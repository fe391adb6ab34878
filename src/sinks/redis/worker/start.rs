//! Finds the start of a lease session: the offset from which each partition is
//! read, the offset up to which earlier sessions counted, and whether the log
//! still holds every record that the window needs.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    context::{Context, kafka},
    progress::PartitionProgress,
};
use crate::{
    config,
    kafka::{Bounds, TopicIdentity},
    runtime::{Backfilled, Break, Committed, Fault, Halt, Reading, Tally, TopicLife, stats::Done},
    time::clock::{now_ms, now_us},
};

/// Allowance for the clocks of the broker and the worker, added to window and
/// skew when the start of the window is searched.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The start of a lease session.
pub(super) struct Start {
    pub partitions: Vec<PartitionProgress>,
    /// Trusted committed offsets of the group, indexed by partition.
    pub committed: Vec<Option<i64>>,
    pub gap: Option<Gap>,
    /// Why the group's offsets are not used. `None` if they are.
    pub untrusted_offsets: Option<Halt>,
    /// The backfill recorded when the session started.
    pub backfill: Option<Backfilled>,
}

/// Records of the window may have been deleted before this session could read
/// them.
#[derive(Debug)]
pub(super) struct Gap {
    /// From this instant on, every record that counts was appended after the
    /// session started.
    pub until: Instant,
    pub degraded: Halt,
}

/// State of one partition when a session starts.
#[derive(Debug, Clone, Copy)]
struct PartitionState {
    bounds: Bounds,
    /// The first offset whose record is late enough for the window.
    window_start: i64,
    /// The offset up to which the partition was backfilled from the source.
    backfilled: Option<i64>,
    /// The offset up to which earlier sessions have counted, if it can be
    /// trusted.
    counted: Option<i64>,
    /// Append time of the latest record before `counted`, in milliseconds since
    /// the epoch.
    appended_ms: Option<i64>,
}

impl PartitionState {
    /// Returns the offset from which the partition is read.
    fn start_offset(self) -> i64 {
        let start = self.window_start.max(self.backfilled.unwrap_or(0));
        start.clamp(self.bounds.start, self.bounds.end.max(self.bounds.start))
    }

    /// Returns true if records as late as `since_ms` may have been deleted from
    /// the start of the partition. Records are in the order of their times: if an
    /// older record is still in the log, all deleted records were older, too.
    fn may_lack_records(self, since_ms: i64) -> bool {
        let start = self.bounds.start;
        let has_older_record = self.window_start > start;
        let is_backfilled = self.backfilled.is_some_and(|offset| offset >= start);
        let was_old = self.counted.is_some_and(|counted| counted >= start)
            && self.appended_ms.is_some_and(|time| time < since_ms);
        start > 0 && !has_older_record && !is_backfilled && !was_old
    }
}

impl Start {
    /// Finds the start from the log, the group's commits and its recorded state.
    pub(super) async fn find(context: &Context, identity: TopicIdentity) -> Result<Self, Fault> {
        let topic = context.shared.source.facts.topic();
        let incarnation = TopicLife::from(identity);
        let lookback = lookback(&context.settings);
        let lookback_ms = i64::try_from(lookback.as_millis()).unwrap_or(i64::MAX);
        let since_ms = now_ms().saturating_sub(lookback_ms);
        let now = Instant::now();
        let backfill = context.notes.backfilled(incarnation.topic()).await?;
        let states =
            partition_states(context, &topic, incarnation, since_ms, backfill.as_ref()).await?;
        let mut start = Self {
            partitions: Vec::with_capacity(states.len()),
            committed: Vec::with_capacity(states.len()),
            gap: None,
            untrusted_offsets: None,
            backfill,
        };
        let mut ignored = Tally::new();
        for (partition, (state, problem)) in (0..).zip(states) {
            let reading = reading(context, &topic, partition, state.bounds);
            if let Some(problem) = problem {
                start
                    .untrusted_offsets
                    .get_or_insert_with(|| untrusted_offset(reading, problem));
            }
            if state.may_lack_records(since_ms) {
                start.gap.get_or_insert_with(|| Gap {
                    until: now + lookback,
                    degraded: retention_gap(reading, &context.settings, lookback),
                });
            }
            start.add_partition(state, now, &mut ignored);
        }
        if !ignored.is_empty() {
            context.stats.add(&Done {
                ignored,
                ..Done::default()
            });
        }
        Ok(start)
    }

    fn add_partition(&mut self, state: PartitionState, now: Instant, ignored: &mut Tally) {
        let start = state.start_offset();
        let counted_to = state.counted.unwrap_or(state.bounds.start);
        // Records that are not read: deleted, or older than the window needs.
        let deleted = state.bounds.start.saturating_sub(counted_to).max(0);
        let older = start.saturating_sub(counted_to).max(0) - deleted;
        for (reason, records) in [("deleted", deleted), ("before_window", older)] {
            if let Ok(records @ 1..) = u64::try_from(records) {
                *ignored.entry(reason).or_default() += records;
            }
        }
        let mut progress = PartitionProgress::new(counted_to, start, (now, state.bounds.end));
        progress.appended_ms = state.appended_ms;
        self.partitions.push(progress);
        self.committed.push(state.counted);
    }
}

/// Returns the maximum age of a record that the window needs.
fn lookback(settings: &config::Board) -> Duration {
    Duration::from_secs(settings.window_seconds + settings.skew_seconds) + CLOCK_SLACK
}

fn reading<'a>(
    context: &'a Context,
    topic: &'a str,
    partition: i32,
    bounds: Bounds,
) -> Reading<'a> {
    Reading {
        group: context.notes.group(),
        topic,
        partition,
        bounds,
    }
}

/// Returns the state of each partition, and the problem with the group's offset
/// if it is not used.
async fn partition_states(
    context: &Context,
    topic: &str,
    incarnation: TopicLife,
    since_ms: i64,
    backfill: Option<&Backfilled>,
) -> Result<Vec<(PartitionState, Option<Break>)>, Fault> {
    let log = &context.log;
    let bounds = log.bounds(topic).await.map_err(kafka)?;
    let window_starts = log.offsets_at(topic, since_ms).await.map_err(kafka)?;
    let commits = log.commits(topic, bounds.len()).await.map_err(kafka)?;
    let backfilled = backfilled_offsets(context, topic, bounds.len(), incarnation, backfill);
    let backfilled = backfilled.await?;
    let mut states = Vec::with_capacity(bounds.len());
    let partitions = bounds
        .iter()
        .zip(window_starts)
        .zip(backfilled)
        .zip(&commits);
    for (partition, (((bounds, window_start), backfilled), commit)) in (0..).zip(partitions) {
        let commit = commit
            .as_ref()
            .map(|(offset, metadata)| (*offset, metadata.as_str()));
        let reading = reading(context, topic, partition, *bounds);
        let (counted, problem) = counted_offset(context, incarnation, reading, commit).await?;
        let trusted = commit.filter(|_| counted.is_some());
        let state = PartitionState {
            bounds: *bounds,
            window_start,
            backfilled,
            counted,
            appended_ms: trusted.and_then(|(_, metadata)| TopicLife::appended_ms(metadata)),
        };
        states.push((state, problem));
    }
    Ok(states)
}

/// Returns the offset up to which earlier sessions have counted a partition, or
/// the problem if it is unknown.
async fn counted_offset(
    context: &Context,
    incarnation: TopicLife,
    reading: Reading<'_>,
    commit: Option<(i64, &str)>,
) -> Result<(Option<i64>, Option<Break>), Fault> {
    let noted = context
        .notes
        .committed(reading.partition, incarnation.topic());
    let committed = Committed::of(commit, noted.await?);
    let offset = match committed {
        Committed::Ours { offset, metadata } if incarnation.is_of(metadata) => offset,
        Committed::Same { offset } => offset,
        _ => return Ok((None, committed.trouble())),
    };
    Ok(match reading.check(offset) {
        Err(problem @ Break::Short { .. }) => (None, Some(problem)),
        // Records deleted since then are counted as ignored, with that reason.
        _ => (Some(offset), None),
    })
}

/// Returns the offset up to which each of `partitions` partitions was backfilled
/// from the source. The session reads no earlier records: events that the backfill
/// did not read no longer exist in the source.
async fn backfilled_offsets(
    context: &Context,
    topic: &str,
    partitions: usize,
    incarnation: TopicLife,
    backfill: Option<&Backfilled>,
) -> Result<Vec<Option<i64>>, Fault> {
    let Some(backfill) = backfill else {
        // Releases without a state topic recorded it in commits.
        let commits = context.legacy_backfills.commits(topic, partitions).await;
        return Ok(incarnation.offsets(&commits.map_err(kafka)?));
    };
    let window = Duration::from_secs(context.settings.window_seconds);
    let window_us = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
    let edge_us = now_us().saturating_sub(window_us);
    let covers_window = backfill.since_us.is_none_or(|since| since <= edge_us);
    let offset = |partition| backfill.at(partition).filter(|_| covers_window);
    Ok((0..).take(partitions).map(offset).collect())
}

fn untrusted_offset(reading: Reading<'_>, problem: Break) -> Halt {
    let effect = "its records are counted again, and dead letters among them may be written again";
    reading.halt(problem, effect, "fanout status --watch")
}

fn retention_gap(reading: Reading<'_>, settings: &config::Board, lookback: Duration) -> Halt {
    let window = settings.window_seconds;
    Halt {
        code: "retention_passed".to_owned(),
        reason: format!(
            "partition {} of {} begins at offset {}: records of the last {window} s may have been \
             deleted, so the board is incomplete for {} s unless they are read from the source",
            reading.partition,
            reading.topic,
            reading.bounds.start,
            lookback.as_secs()
        ),
        remedy: recovery_command(settings),
    }
}

/// Returns the command that backfills the window from the source and rebuilds the
/// board. The board then ignores all earlier records of the log.
pub(super) fn recovery_command(settings: &config::Board) -> String {
    let window = settings.window_seconds;
    format!("fanout backfill --from {window}s --source database --sinks redis")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: i64 = 1_000;

    fn state(start: i64, end: i64, window_start: i64) -> PartitionState {
        PartitionState {
            bounds: Bounds { start, end },
            window_start,
            backfilled: None,
            counted: None,
            appended_ms: None,
        }
    }

    #[test]
    fn records_may_be_lacking_if_no_older_record_is_in_the_log() {
        assert!(
            !state(0, 9, 0).may_lack_records(SINCE),
            "no record was deleted"
        );
        assert!(
            !state(4, 9, 5).may_lack_records(SINCE),
            "the log has an older record"
        );
        assert!(
            !state(4, 9, 9).may_lack_records(SINCE),
            "the log has only older records"
        );
        assert!(state(4, 9, 4).may_lack_records(SINCE));
        assert!(
            state(4, 4, 4).may_lack_records(SINCE),
            "every record was deleted"
        );
    }

    #[test]
    fn the_window_is_recovered_from_the_source() {
        let settings = config::Board {
            window_seconds: 90,
            ..config::Board::default()
        };
        assert_eq!(
            recovery_command(&settings),
            "fanout backfill --from 90s --source database --sinks redis"
        );
    }

    #[test]
    fn backfilled_records_are_not_lacking() {
        let state = |offset| PartitionState {
            backfilled: Some(offset),
            ..state(4, 9, 4)
        };
        assert!(state(3).may_lack_records(SINCE));
        assert!(!state(4).may_lack_records(SINCE) && !state(7).may_lack_records(SINCE));
        assert_eq!((state(3).start_offset(), state(7).start_offset()), (4, 7));
        assert_eq!(state(20).start_offset(), 9, "not past the end");
    }

    #[test]
    fn an_emptied_partition_lacks_no_record_if_all_counted_records_were_old() {
        let state = |counted, appended_ms| PartitionState {
            counted: Some(counted),
            appended_ms,
            ..state(4, 4, 4)
        };
        assert!(!state(4, Some(SINCE - 1)).may_lack_records(SINCE));
        assert!(state(4, Some(SINCE)).may_lack_records(SINCE));
        assert!(
            state(4, None).may_lack_records(SINCE),
            "the append time is unknown"
        );
        assert!(
            state(3, Some(SINCE - 1)).may_lack_records(SINCE),
            "one deleted record was not counted"
        );
    }
}
