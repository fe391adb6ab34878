//! Background tasks of one lease session: a reader per partition, the offset
//! committer, and the log poller.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::sink::{BoardChange, BoardDecoder, Decoded};
use crate::{
    crash,
    kafka::{
        Bounds, Kafka, KafkaError, Limits, Log, Partition, Taken, TopicIdentity, chunk::Chunk,
        is_unanswered,
    },
    runtime::{
        Backfilled, Break, Committed, Halt, Noted, Notes, Reading, TopicLife,
        retry::ticks,
        stats::{POSITIONS, SinkStats},
    },
};

/// Limits of one decoded chunk.
const LIMITS: Limits = Limits {
    records: 2048,
    bytes: 4 * 1024 * 1024,
};

/// Minimum interval between two commits.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// Unchanged offsets are committed again at this interval. A late commit of an
/// earlier lease holder can overwrite them, and Kafka does not fence it.
const RECOMMIT_INTERVAL: Duration = Duration::from_secs(10);

/// Interval between two polls of the end offsets.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The identity of the topic is checked on every nth poll.
const IDENTIFY_EVERY: u32 = 12;

/// A decoded chunk, sent by a partition reader to the board.
pub(super) struct DecodedChunk {
    pub topic: Arc<str>,
    pub partition: i32,
    pub decoded: Vec<Decoded>,
    /// The raw records. `Some` only if at least one of them is rejected.
    pub chunk: Option<Chunk>,
    /// Next offset: all earlier records have been sent.
    pub next: Option<i64>,
}

/// Reads and decodes one partition until the receiver is closed.
pub(super) async fn read(
    mut partition: Partition,
    decoder: BoardDecoder,
    sender: mpsc::Sender<Result<DecodedChunk, KafkaError>>,
) {
    let mut chunk = Chunk::new(Arc::clone(partition.topic()), partition.number());
    loop {
        let taken = match partition.take(&mut chunk, LIMITS) {
            Ok(taken) => taken,
            Err(error) => {
                // The receiver may already be closed.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let at_end = taken == Taken::End;
        if !chunk.is_empty() || at_end {
            crash::point("redis", "polled");
            let decoded = decoder.decode(&chunk);
            crash::point("redis", "decoded");
            let is_rejected =
                |decoded: &Decoded| matches!(decoded.change, BoardChange::Rejected(_));
            let position = at_end
                .then(|| partition.position().ok().flatten())
                .flatten();
            let decoded_chunk = DecodedChunk {
                topic: Arc::clone(partition.topic()),
                partition: partition.number(),
                next: position.max(chunk.next_offset()),
                chunk: decoded.iter().any(is_rejected).then(|| chunk.clone()),
                decoded,
            };
            chunk.clear();
            if sender.send(Ok(decoded_chunk)).await.is_err() {
                return;
            }
        }
        if taken != Taken::Full {
            tokio::select! {
                () = partition.arrived() => {}
                () = sender.closed() => return,
            }
        }
    }
}

/// Read progress of the board.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// Positions that are safe to commit, indexed by partition.
    pub positions: Vec<CommitPosition>,
    /// The lease is certain to be held until this instant. A worker that was
    /// paused for longer must not overwrite the commits of its successor: the
    /// group has no members, so Kafka does not fence them.
    pub lease_until: Instant,
}

/// Position of one partition that is safe to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommitPosition {
    /// Next offset: all earlier records have been processed.
    pub next: i64,
    /// Append time of the latest processed record, in milliseconds since the
    /// epoch.
    pub appended_ms: Option<i64>,
}

/// Commits the offsets of the board's group, which has no members.
pub(super) struct OffsetCommitter {
    pub kafka: Kafka,
    pub group: String,
    pub topic: String,
    /// Incarnation of the topic, stored in the metadata of every commit.
    pub incarnation: TopicLife,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
}

/// Offset and time of a partition's last commit.
type LastCommit = Option<(i64, Instant)>;

impl OffsetCommitter {
    /// Commits the progress periodically and once more on shutdown, while the
    /// lease is held.
    pub(super) async fn run(self, mut progress_updates: watch::Receiver<Progress>) {
        let mut last_commits: Vec<LastCommit> = Vec::new();
        let mut log = None;
        let mut last_check = Instant::now();
        loop {
            let is_open = progress_updates.changed().await.is_ok();
            let progress = progress_updates.borrow_and_update().clone();
            last_commits.resize(progress.positions.len(), None);
            if let Err(error) = self.commit(&progress, &mut last_commits, &mut log).await {
                tracing::warn!(sink = "redis", %error, "cannot commit offsets");
                if is_unanswered(&error) {
                    // librdkafka may have dropped this request, and would drop
                    // later ones on the same handle: connect again.
                    log = None;
                }
            } else if is_open && last_check.elapsed() >= RECOMMIT_INTERVAL {
                last_check = Instant::now();
                if let Some(log) = &log {
                    self.check(&mut last_commits, log).await;
                }
            }
            if !is_open {
                if Instant::now() < progress.lease_until {
                    self.record_end(&last_commits).await;
                }
                return;
            }
            sleep(COMMIT_INTERVAL).await;
        }
    }

    async fn commit(
        &self,
        progress: &Progress,
        last_commits: &mut [LastCommit],
        log: &mut Option<Log>,
    ) -> Result<(), KafkaError> {
        let log = match log {
            Some(log) => log,
            None => log.insert(self.connect().await?),
        };
        for ((partition, position), last_commit) in (0..).zip(&progress.positions).zip(last_commits)
        {
            let next = position.next;
            let is_current = last_commit
                .is_some_and(|(offset, time)| offset == next && time.elapsed() < RECOMMIT_INTERVAL);
            if is_current || Instant::now() >= progress.lease_until {
                continue;
            }
            crash::point("redis", "committing");
            let metadata = self.incarnation.text(next, position.appended_ms);
            log.commit(&self.topic, partition, next, &metadata).await?;
            crash::point("redis", "committed");
            if last_commit.is_none() {
                self.record(partition, Noted::Begun).await;
            }
            *last_commit = Some((next, Instant::now()));
            self.stats.committed(partition, next);
        }
        Ok(())
    }

    async fn record_end(&self, last_commits: &[LastCommit]) {
        for (partition, last_commit) in (0..).zip(last_commits) {
            if let Some((next, _)) = last_commit {
                self.record(partition, Noted::EndedAt(*next)).await;
            }
        }
    }

    /// Records the commit in the state topic, so that an offset that is missing
    /// later is recognised as lost.
    async fn record(&self, partition: i32, noted: Noted) {
        let topic = self.incarnation.topic();
        let recorded = self.notes.note_committed(partition, topic, noted);
        if let Err(fault) = recorded.await {
            tracing::debug!(
                sink = "redis",
                partition,
                ?fault,
                "cannot record the commit in the state topic"
            );
        }
    }

    /// Reports offsets that another client has changed, and has them committed
    /// again. Any client can commit for a group without members.
    async fn check(&self, last_commits: &mut [LastCommit], log: &Log) {
        let Ok(commits) = log.commits(&self.topic, last_commits.len()).await else {
            return;
        };
        let mut degraded = None;
        for ((partition, commit), last_commit) in (0..).zip(&commits).zip(last_commits) {
            let commit = commit
                .as_ref()
                .map(|(offset, metadata)| (*offset, metadata.as_str()));
            let noted = last_commit.map(|(next, _)| Noted::EndedAt(next));
            let Some(problem) = Committed::of(commit, noted).trouble() else {
                continue;
            };
            *last_commit = None;
            degraded.get_or_insert_with(|| {
                offset_changed(&self.group, &self.topic, partition, problem)
            });
        }
        if let Some(degraded) = &degraded {
            let (code, reason) = (&degraded.code, &degraded.reason);
            tracing::warn!(
                sink = "redis",
                code,
                reason,
                "offsets were changed by another client, committing them again"
            );
        }
        self.stats.set_degradation(POSITIONS, degraded);
    }

    /// Connects and verifies that the broker responds. Otherwise the first commit
    /// would block until its timeout.
    async fn connect(&self) -> Result<Log, KafkaError> {
        let log = self.kafka.log(&self.group)?;
        log.identity(&self.topic).await?;
        Ok(log)
    }
}

/// Returns the degraded state to report if an offset was moved or lost while the
/// board was running.
fn offset_changed(group: &str, topic: &str, partition: i32, problem: Break) -> Halt {
    let reading = Reading {
        group,
        topic,
        partition,
        bounds: Bounds { start: 0, end: 0 },
    };
    reading.halt(
        problem,
        "fanout commits its own offset again",
        "fanout status --watch",
    )
}

/// Result of one poll of the log.
#[derive(Debug)]
pub(super) enum LogPoll {
    /// End offset of each partition, indexed by partition, read at or after the
    /// instant.
    Ends(Instant, Vec<i64>),
    /// The topic was recreated, its partition count changed, or it was backfilled
    /// from the source.
    Changed,
}

/// Polls the end offsets to compute the lag and the staleness of the board.
pub(super) struct LogPoller {
    pub log: Log,
    pub topic: String,
    pub identity: TopicIdentity,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
    /// The backfill recorded when the session started.
    pub backfill: Option<Backfilled>,
    pub polls: mpsc::Sender<LogPoll>,
}

impl LogPoller {
    /// Runs until dropped or until the topic has changed.
    pub(super) async fn run(self) {
        let mut ticks = ticks(POLL_INTERVAL);
        for number in 0_u32.. {
            ticks.tick().await;
            let start = Instant::now();
            let poll = match self.log.ends(&self.topic).await {
                Ok(ends) => {
                    self.stats.set_ends(&ends);
                    LogPoll::Ends(start, ends)
                }
                Err(error) => {
                    self.stats.lost_sight(&format!("kafka: {error}"));
                    continue;
                }
            };
            let has_changed = number % IDENTIFY_EVERY == 0 && self.has_changed().await;
            let poll = if has_changed { LogPoll::Changed } else { poll };
            if self.polls.send(poll).await.is_err() || has_changed {
                return;
            }
        }
    }

    /// Returns true if the board must be rebuilt from the log. Returns false if
    /// Kafka does not respond; a later poll checks again.
    async fn has_changed(&self) -> bool {
        let identity = self.log.identity(&self.topic).await;
        if identity.is_ok_and(|identity| identity != Some(self.identity)) {
            return true;
        }
        let backfill = self.notes.backfilled(self.identity.id).await;
        backfill.is_ok_and(|backfill| backfill != self.backfill)
    }
}
