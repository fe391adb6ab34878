//! Where a term begins: from where each partition is read, what earlier terms
//! have counted, and whether the log still has all that the window needs.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    context::{Context, kafka},
    progress::Track,
};
use crate::{
    config,
    kafka::{Bounds, TopicIdentity},
    runtime::{Break, Committed, Fault, Halt, MadeUp, Reading, Tally, TopicLife, stats::Done},
    time::clock::{now_ms, now_us},
};

/// Added to window and skew when looking for where to begin, for the clocks of
/// broker and worker.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// What a term begins with.
pub(super) struct Start {
    pub tracks: Vec<Track>,
    /// What the group had committed, by partition.
    pub committed: Vec<Option<i64>>,
    pub gap: Option<Gap>,
    /// Why the group's positions are not used; none where they are.
    pub distrust: Option<Halt>,
    /// What was made up for when the term began.
    pub made_up: Option<MadeUp>,
}

/// Records of the window may have been deleted before this term could read
/// them.
#[derive(Debug)]
pub(super) struct Gap {
    /// Whatever counts after this was appended since the term began.
    pub until: Instant,
    pub caution: Halt,
}

/// What was known of one partition when a term began.
#[derive(Debug, Clone, Copy)]
struct Front {
    bounds: Bounds,
    /// The first offset whose record the window may need, by its time.
    found: i64,
    /// Before this, everything was made up for.
    made_up: Option<i64>,
    /// What earlier terms have counted to, where that can be trusted.
    counted: Option<i64>,
    /// When the latest record before that was appended, in milliseconds since
    /// the epoch.
    appended_ms: Option<i64>,
}

impl Front {
    /// Where reading begins.
    fn start(self) -> i64 {
        let start = self.found.max(self.made_up.unwrap_or(0));
        start.clamp(self.bounds.start, self.bounds.end.max(self.bounds.start))
    }

    /// Whether records as late as `since_ms` may have been deleted from the
    /// front. Records stand in the order of their times: where an older one is
    /// still there, those before it are older, too.
    fn lacks(self, since_ms: i64) -> bool {
        let start = self.bounds.start;
        let older_is_there = self.found > start;
        let is_made_up = self.made_up.is_some_and(|made_up| made_up >= start);
        let was_old = self.counted.is_some_and(|counted| counted >= start)
            && self.appended_ms.is_some_and(|at| at < since_ms);
        start > 0 && !older_is_there && !is_made_up && !was_old
    }
}

impl Start {
    /// Asks the log, the group and the notes.
    pub(super) async fn find(context: &Context, identity: TopicIdentity) -> Result<Self, Fault> {
        let topic = context.shared.source.facts.topic();
        let life = TopicLife::from(identity);
        let reach = reach(&context.settings);
        let reach_ms = i64::try_from(reach.as_millis()).unwrap_or(i64::MAX);
        let since_ms = now_ms().saturating_sub(reach_ms);
        let now = Instant::now();
        let made_up = context.notes.made_up(life.topic()).await?;
        let fronts = fronts(context, &topic, life, since_ms, made_up.as_ref()).await?;
        let mut start = Self {
            tracks: Vec::with_capacity(fronts.len()),
            committed: Vec::with_capacity(fronts.len()),
            gap: None,
            distrust: None,
            made_up,
        };
        let mut ignored = Tally::new();
        for (partition, (front, broken)) in (0..).zip(fronts) {
            let reading = reading(context, &topic, partition, front.bounds);
            if let Some(broken) = broken {
                start
                    .distrust
                    .get_or_insert_with(|| distrust(reading, broken));
            }
            if front.lacks(since_ms) {
                start.gap.get_or_insert_with(|| Gap {
                    until: now + reach,
                    caution: gap(reading, &context.settings, reach),
                });
            }
            start.take(front, now, &mut ignored);
        }
        if !ignored.is_empty() {
            context.stats.add(&Done {
                ignored,
                ..Done::default()
            });
        }
        Ok(start)
    }

    fn take(&mut self, front: Front, now: Instant, ignored: &mut Tally) {
        let begin = front.start();
        let counted_to = front.counted.unwrap_or(front.bounds.start);
        // Not read, without effect: older than the window reaches, or gone.
        let gone = front.bounds.start.saturating_sub(counted_to).max(0);
        let older = begin.saturating_sub(counted_to).max(0) - gone;
        for (reason, records) in [("deleted", gone), ("before_window", older)] {
            if let Ok(records @ 1..) = u64::try_from(records) {
                *ignored.entry(reason).or_default() += records;
            }
        }
        let mut track = Track::new(counted_to, begin, (now, front.bounds.end));
        track.appended_ms = front.appended_ms;
        self.tracks.push(track);
        self.committed.push(front.counted);
    }
}

/// How far back a record may be that the window needs.
fn reach(settings: &config::Board) -> Duration {
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

/// What is known of each partition, and why the group's position in it is not
/// used.
async fn fronts(
    context: &Context,
    topic: &str,
    life: TopicLife,
    since_ms: i64,
    noted: Option<&MadeUp>,
) -> Result<Vec<(Front, Option<Break>)>, Fault> {
    let log = &context.log;
    let bounds = log.bounds(topic).await.map_err(kafka)?;
    let found = log.offsets_at(topic, since_ms).await.map_err(kafka)?;
    let commits = log.commits(topic, bounds.len()).await.map_err(kafka)?;
    let made_up = made_up(context, topic, bounds.len(), life, noted).await?;
    let mut fronts = Vec::with_capacity(bounds.len());
    let places = bounds.iter().zip(found).zip(made_up).zip(&commits);
    for (partition, (((bounds, found), made_up), commit)) in (0..).zip(places) {
        let commit = commit.as_ref().map(|(at, said)| (*at, said.as_str()));
        let reading = reading(context, topic, partition, *bounds);
        let (counted, broken) = counted(context, life, reading, commit).await?;
        let said = commit.filter(|_| counted.is_some());
        let front = Front {
            bounds: *bounds,
            found,
            made_up,
            counted,
            appended_ms: said.and_then(|(_, said)| TopicLife::appended_ms(said)),
        };
        fronts.push((front, broken));
    }
    Ok(fronts)
}

/// What earlier terms have counted of a partition, and why that is not known.
async fn counted(
    context: &Context,
    life: TopicLife,
    reading: Reading<'_>,
    commit: Option<(i64, &str)>,
) -> Result<(Option<i64>, Option<Break>), Fault> {
    let noted = context.notes.committed(reading.partition, life.topic());
    let committed = Committed::of(commit, noted.await?);
    let offset = match committed {
        Committed::Ours { offset, metadata } if life.is_of(metadata) => offset,
        Committed::Same { offset } => offset,
        _ => return Ok((None, committed.trouble())),
    };
    Ok(match reading.check(offset) {
        Err(broken @ Break::Short { .. }) => (None, Some(broken)),
        // What was deleted since is counted as that.
        _ => (Some(offset), None),
    })
}

/// From where on each partition, of so many, counts: what a rebuild from the
/// source has not read again is gone.
async fn made_up(
    context: &Context,
    topic: &str,
    partitions: usize,
    life: TopicLife,
    noted: Option<&MadeUp>,
) -> Result<Vec<Option<i64>>, Fault> {
    let Some(noted) = noted else {
        // As releases before the state topic noted it.
        let commits = context.mended.commits(topic, partitions).await;
        return Ok(life.offsets(&commits.map_err(kafka)?));
    };
    let window = Duration::from_secs(context.settings.window_seconds);
    let window_us = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
    let edge_us = now_us().saturating_sub(window_us);
    let covers = noted.since_us.is_none_or(|since| since <= edge_us);
    let at = |partition| noted.at(partition).filter(|_| covers);
    Ok((0..).take(partitions).map(at).collect())
}

fn distrust(reading: Reading<'_>, broken: Break) -> Halt {
    let effect = "its records are counted again, and dead letters among them may be written again";
    reading.halt(broken, effect, "fanout status --watch")
}

fn gap(reading: Reading<'_>, settings: &config::Board, reach: Duration) -> Halt {
    let window = settings.window_seconds;
    Halt {
        code: "retention_passed".to_owned(),
        reason: format!(
            "partition {} of {} begins at offset {}: records of the last {window} s may have been \
             deleted, so the board is incomplete for {} s unless they are read from the source",
            reading.partition,
            reading.topic,
            reading.bounds.start,
            reach.as_secs()
        ),
        remedy: recovery(settings),
    }
}

/// The command that has the window read from the source and the board built
/// from there: what the log has before is then not read.
pub(super) fn recovery(settings: &config::Board) -> String {
    let window = settings.window_seconds;
    format!("fanout backfill --from {window}s --source database --sinks redis")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: i64 = 1_000;

    fn front(start: i64, end: i64, found: i64) -> Front {
        Front {
            bounds: Bounds { start, end },
            found,
            made_up: None,
            counted: None,
            appended_ms: None,
        }
    }

    #[test]
    fn a_log_that_may_have_lost_records_of_the_window_lacks_them() {
        assert!(!front(0, 9, 0).lacks(SINCE), "nothing was deleted");
        assert!(!front(4, 9, 5).lacks(SINCE), "an older record is there");
        assert!(!front(4, 9, 9).lacks(SINCE), "only older records are there");
        assert!(front(4, 9, 4).lacks(SINCE));
        assert!(front(4, 4, 4).lacks(SINCE), "all was deleted");
    }

    #[test]
    fn the_window_is_recovered_from_the_source() {
        let settings = config::Board {
            window_seconds: 90,
            ..config::Board::default()
        };
        assert_eq!(
            recovery(&settings),
            "fanout backfill --from 90s --source database --sinks redis"
        );
    }

    #[test]
    fn what_was_made_up_for_is_not_lacking() {
        let made_up = |made_up| Front {
            made_up: Some(made_up),
            ..front(4, 9, 4)
        };
        assert!(made_up(3).lacks(SINCE));
        assert!(!made_up(4).lacks(SINCE) && !made_up(7).lacks(SINCE));
        assert_eq!((made_up(3).start(), made_up(7).start()), (4, 7));
        assert_eq!(made_up(20).start(), 9, "not past the end");
    }

    #[test]
    fn an_emptied_partition_lacks_nothing_that_was_old_when_it_was_counted() {
        let counted = |counted, appended_ms| Front {
            counted: Some(counted),
            appended_ms,
            ..front(4, 4, 4)
        };
        assert!(!counted(4, Some(SINCE - 1)).lacks(SINCE));
        assert!(counted(4, Some(SINCE)).lacks(SINCE));
        assert!(counted(4, None).lacks(SINCE), "it does not say");
        assert!(
            counted(3, Some(SINCE - 1)).lacks(SINCE),
            "not all was counted"
        );
    }
}
