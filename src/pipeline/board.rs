//! The board's worker: holds the lease, rebuilds the window from the log, then
//! follows it and publishes. Others that run it at the same time stand by.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    dead_letter::DeadLetters,
    feed::{Fed, commit, read, ticks, watch_ends},
    stats::{Done, Phase, SinkStats, WHOLE_SINK},
};
use crate::{
    chunk::Chunk,
    clients::kafka::{KafkaError, Log, Partition, Reader},
    clock::{now_ms, now_us},
    config::{self, Settings},
    event::FactDecoder,
    sinks::{
        Fault, Rejected, Tally,
        board::{Board, BoardChange, Decoded, Moment},
    },
    window::Applied,
};

/// Decoded chunks waiting for the board.
const QUEUE: usize = 4;

/// Added to window and skew when looking for where to begin, for the clocks of
/// broker and worker.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The board is published this often though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A worker that stands by looks again this often.
const STANDBY_INTERVAL: Duration = Duration::from_millis(1000);

/// A board whose partitions were all at their ends this long ago is complete.
const COMPLETE_WITHIN: Duration = Duration::from_secs(1);

/// The worker.
pub(super) struct BoardWorker {
    shared: Shared,
    settings: config::Board,
    log: Log,
    stats: Arc<SinkStats>,
    decoder: FactDecoder,
    board: Board,
}

/// Why a term as the board's holder ended.
enum TermEnd {
    Stopped,
    LeaseLost,
    /// A truncate was met: the log has to be read again in its light.
    Truncated,
    Trouble(Fault),
}

impl BoardWorker {
    pub(super) fn new(
        shared: Shared,
        settings: &Settings,
        log: Log,
        stats: Arc<SinkStats>,
    ) -> Result<Self, String> {
        let board = Board::new(&settings.board, &settings.redis);
        Ok(Self {
            decoder: FactDecoder::new(shared.source.facts.clone()),
            board: board.map_err(|error| error.to_string())?,
            settings: settings.board.clone(),
            shared,
            log,
            stats,
        })
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut attempt = 0;
        while !stop.is_cancelled() {
            let wait = match self.board.take_lease().await {
                Ok(true) => match self.term().await {
                    TermEnd::Stopped => break,
                    TermEnd::LeaseLost | TermEnd::Truncated => Duration::ZERO,
                    TermEnd::Trouble(fault) => {
                        self.board.release_lease().await;
                        self.endure(fault, attempt)
                    }
                },
                Ok(false) => {
                    self.stats.recovered(WHOLE_SINK);
                    self.stats.set_phase(Phase::Standby);
                    attempt = 0;
                    STANDBY_INTERVAL
                }
                Err(fault) => self.endure(fault, attempt),
            };
            attempt += 1;
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        self.board.release_lease().await;
    }

    fn endure(&self, fault: Fault, attempt: u32) -> Duration {
        let patience = self.shared.patience;
        patience.endure(&self.stats, WHOLE_SINK, fault, attempt)
    }

    /// One term as the board's holder.
    async fn term(&mut self) -> TermEnd {
        self.stats.set_phase(Phase::Starting(
            "rebuilding the board from the log".to_owned(),
        ));
        match Term::begin(self).await {
            Ok(term) => term.run(self).await,
            Err(fault) => TermEnd::Trouble(fault),
        }
    }
}

/// How far one partition is.
struct Track {
    /// Before this, records were counted by an earlier term.
    counted_to: i64,
    /// The end when the lease was taken.
    goal: i64,
    next: i64,
    at_end: bool,
    /// When it was last known to be at its end.
    last_at_end: Instant,
}

/// The state of one term.
struct Term {
    _reader: Reader,
    /// Reading and committing: they end when the term does.
    tasks: JoinSet<()>,
    /// Watches the ends, until dropped.
    _watch: AbortOnDropHandle<()>,
    feed: mpsc::Receiver<Result<Fed, KafkaError>>,
    /// Next offset of each partition, for the committing task.
    progress: watch::Sender<Vec<i64>>,
    tracks: Vec<Track>,
    letters: DeadLetters,
    dirty: bool,
    last_publication: Instant,
}

impl Term {
    /// Reads the log from where the window begins.
    async fn begin(worker: &mut BoardWorker) -> Result<Self, Fault> {
        let topic = worker.shared.source.facts.topic();
        let identity = worker.log.identity(&topic).await.map_err(kafka)?;
        let identity =
            identity.ok_or_else(|| Fault::retry(format!("waiting for topic {topic}")))?;
        let (tracks, starts, committed) = worker.tracks(&topic).await?;
        worker.board.restart(now_us());
        let group = worker.shared.group("redis");
        let (reader, partitions) =
            Reader::assign(&worker.shared.consumer, &group, &topic, &starts).map_err(kafka)?;
        let (sender, feed) = mpsc::channel(QUEUE);
        let (progress, to_commit) = watch::channel(tracks.iter().map(|t| t.next).collect());
        let committers = partitions.iter().map(Partition::committer).collect();
        let mut tasks = JoinSet::new();
        tasks.spawn(commit(committers, to_commit, Arc::clone(&worker.stats)));
        let ends = watch_ends(worker.log.clone(), topic, Arc::clone(&worker.stats));
        for (partition, committed) in partitions.into_iter().zip(committed) {
            worker.stats.claimed(partition.number(), committed);
            tasks.spawn(read(partition, worker.decoder.clone(), sender.clone()));
        }
        Ok(Self {
            _reader: reader,
            tasks,
            _watch: AbortOnDropHandle::new(tokio::spawn(ends)),
            feed,
            progress,
            tracks,
            letters: DeadLetters::new(worker.shared.producer.clone(), "redis", identity),
            dirty: true,
            last_publication: Instant::now(),
        })
    }

    /// Follows the log until told to stop, or until the lease is lost.
    async fn run(mut self, worker: &mut BoardWorker) -> TermEnd {
        let stop = worker.shared.stop.clone();
        let mut publish = ticks(Duration::from_millis(worker.settings.publish_interval_ms));
        let mut renew = ticks(Duration::from_millis(worker.settings.lease_ms) / 3);
        let mut replace = ticks(Duration::from_secs(
            worker.settings.replace_interval_seconds,
        ));
        replace.reset();
        let mut warm = false;
        loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = publish.tick(), if warm => self.publish(worker).await,
                _ = renew.tick(), if !warm => held(worker.board.renew_lease().await),
                _ = replace.tick() => {
                    worker.board.distrust();
                    Ok(())
                }
                fed = self.feed.recv() => self.take(fed, worker).await,
            };
            if let Err(end) = step {
                self.end(worker).await;
                return end;
            }
            if !warm && self.tracks.iter().all(|track| track.next >= track.goal) {
                warm = true;
                worker.stats.set_phase(Phase::Running);
            }
        }
        if warm {
            // The last word; without it the board is a moment older.
            let _ = self.publish(worker).await;
        }
        self.end(worker).await;
        TermEnd::Stopped
    }

    /// Ends the term's tasks, the committing one after a last commit.
    async fn end(mut self, worker: &BoardWorker) {
        const LAST_COMMIT: Duration = Duration::from_secs(3);
        drop(self.progress);
        self.feed.close();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // What does not end by itself is ended by dropping the set.
        let _ = tokio::time::timeout(LAST_COMMIT, ended).await;
        for partition in (0..).take(self.tracks.len()) {
            worker.stats.released(partition);
        }
    }

    /// Publishes where something changed, and now and then where nothing did.
    async fn publish(&mut self, worker: &mut BoardWorker) -> Result<(), TermEnd> {
        if !self.dirty && self.last_publication.elapsed() < HEARTBEAT {
            return Ok(());
        }
        let behind = self
            .tracks
            .iter()
            .map(Track::behind)
            .max()
            .unwrap_or_default();
        let moment = Moment {
            as_of_us: now_us(),
            behind,
            complete: behind <= COMPLETE_WITHIN,
        };
        held(worker.board.publish(moment).await)?;
        self.dirty = false;
        self.last_publication = Instant::now();
        worker.stats.unhalt(WHOLE_SINK);
        worker.stats.wrote(WHOLE_SINK);
        Ok(())
    }

    /// Takes what a partition's task has read.
    async fn take(
        &mut self,
        fed: Option<Result<Fed, KafkaError>>,
        worker: &mut BoardWorker,
    ) -> Result<(), TermEnd> {
        let fed = match fed {
            Some(Ok(fed)) => fed,
            Some(Err(error)) => return Err(TermEnd::Trouble(kafka(error))),
            None => return Err(TermEnd::Trouble(Fault::retry("kafka: reading ended"))),
        };
        let Some(track) = usize::try_from(fed.partition)
            .ok()
            .and_then(|index| self.tracks.get_mut(index))
        else {
            return Ok(());
        };
        let mut done = Done::default();
        for record in &fed.decoded {
            let counts = record.offset >= track.counted_to;
            let rejected = apply(&mut worker.board, record, counts.then_some(&mut done))?;
            if let (Some(rejected), Some(chunk), true) = (rejected, &fed.chunk, counts) {
                dead_letter(&self.letters, chunk, rejected).await?;
            }
        }
        self.dirty |= !fed.decoded.is_empty();
        worker.stats.add(&done);
        track.next = track.next.max(fed.next.unwrap_or(track.next));
        track.at_end = fed.at_end;
        if fed.at_end {
            track.last_at_end = Instant::now();
        }
        let (partition, next) = (usize::try_from(fed.partition), track.next);
        self.progress.send_modify(|progress| {
            if let Some(at) = partition.ok().and_then(|index| progress.get_mut(index)) {
                *at = next;
            }
        });
        Ok(())
    }
}

impl BoardWorker {
    /// Where each partition begins, was committed, and ends.
    async fn tracks(&self, topic: &str) -> Result<Tracks, Fault> {
        let reach = Duration::from_secs(self.settings.window_seconds + self.settings.skew_seconds);
        let reach_ms = i64::try_from((reach + CLOCK_SLACK).as_millis()).unwrap_or(i64::MAX);
        let since = now_ms().saturating_sub(reach_ms);
        let bounds = self.log.bounds(topic).await.map_err(kafka)?;
        let starts = self.log.offsets_at(topic, since).await.map_err(kafka)?;
        let committed = self
            .log
            .committed(topic, bounds.len())
            .await
            .map_err(kafka)?;
        let mut tracks = Vec::with_capacity(bounds.len());
        let mut assigned = Vec::with_capacity(bounds.len());
        let mut skipped = 0;
        for ((bounds, start), committed) in bounds.iter().zip(starts).zip(&committed) {
            let start = start.clamp(bounds.start, bounds.end.max(bounds.start));
            let counted_to = committed.unwrap_or(bounds.start);
            // Not read: older than the window reaches, so without effect.
            skipped += u64::try_from(start - counted_to).unwrap_or(0);
            assigned.push(Some(start));
            tracks.push(Track {
                counted_to,
                goal: bounds.end,
                next: start,
                at_end: start >= bounds.end,
                last_at_end: Instant::now(),
            });
        }
        if skipped > 0 {
            self.stats.add(&Done {
                ignored: Tally::from([("before_window", skipped)]),
                ..Done::default()
            });
        }
        Ok((tracks, assigned, committed))
    }
}

/// Tracks, where reading begins, and what was committed, by partition.
type Tracks = (Vec<Track>, Vec<Option<i64>>, Vec<Option<i64>>);

impl Track {
    /// How long ago everything in the partition was known to be in.
    fn behind(&self) -> Duration {
        if self.at_end {
            Duration::ZERO
        } else {
            self.last_at_end.elapsed()
        }
    }
}

/// Applies a record, counting it where it has not been counted before. Returns
/// what has to be dead-lettered.
fn apply<'r>(
    board: &mut Board,
    record: &'r Decoded,
    done: Option<&mut Done<'r>>,
) -> Result<Option<&'r Rejected>, TermEnd> {
    let mut uncounted = Done::default();
    let done = done.unwrap_or(&mut uncounted);
    let mut ignore = |reason| *done.ignored.entry(reason).or_default() += 1;
    match &record.change {
        BoardChange::Event { .. } if board.is_truncated(record) => ignore("truncated"),
        BoardChange::Event { id, event } => {
            match board.apply(*id, *event, record.record_time_us) {
                Applied::Counted | Applied::Waiting | Applied::Deleted => done.applied += 1,
                other => ignore(other.code()),
            }
            done.extra_fields += u64::from(record.extra_fields);
        }
        BoardChange::Truncate => {
            if board.truncate(record) {
                return Err(TermEnd::Truncated);
            }
            done.applied += 1;
        }
        BoardChange::Ignored(why) => ignore(why.code()),
        BoardChange::Rejected(rejected) => {
            done.dead_letters.push(rejected.code);
            return Ok(Some(rejected));
        }
    }
    Ok(None)
}

async fn dead_letter(
    letters: &DeadLetters,
    chunk: &Chunk,
    rejected: &Rejected,
) -> Result<(), TermEnd> {
    let Some(record) = chunk.get(rejected.index) else {
        return Ok(());
    };
    letters.send(&record, rejected).await.map_err(|error| {
        TermEnd::Trouble(Fault::retry(format!(
            "dead letters are not acknowledged: {error}"
        )))
    })
}

/// The lease is held, or the term ends.
fn held(outcome: Result<bool, Fault>) -> Result<(), TermEnd> {
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(TermEnd::LeaseLost),
        Err(fault) => Err(TermEnd::Trouble(fault)),
    }
}

fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}
