//! What runs beside the board while a term lasts: a reader for each partition,
//! the commits, and the looks at the log.

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
        Break, Committed, Halt, MadeUp, Noted, Notes, Reading, TopicLife,
        retry::ticks,
        stats::{POSITIONS, SinkStats},
    },
};

/// Records decoded at once.
const LIMITS: Limits = Limits {
    records: 2048,
    bytes: 4 * 1024 * 1024,
};

/// Offsets are committed at most this often.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// And at least this often: an earlier holder's commit that comes late takes
/// them back, and nothing fences it.
const COMMIT_AGAIN: Duration = Duration::from_secs(10);

/// The log's ends are read this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether it still is the same topic is asked at each so many looks.
const IDENTIFY_EVERY: u32 = 12;

/// What a partition's task sends to the board.
pub(super) struct Fed {
    pub topic: Arc<str>,
    pub partition: i32,
    pub decoded: Vec<Decoded>,
    /// The records as they were; only where one of them is rejected.
    pub chunk: Option<Chunk>,
    /// Everything before this has been sent.
    pub next: Option<i64>,
}

/// Reads and decodes one partition, until the board's end is closed.
pub(super) async fn read(
    mut partition: Partition,
    decoder: BoardDecoder,
    feed: mpsc::Sender<Result<Fed, KafkaError>>,
) {
    let mut chunk = Chunk::new(Arc::clone(partition.topic()), partition.number());
    loop {
        let taken = match partition.take(&mut chunk, LIMITS) {
            Ok(taken) => taken,
            Err(error) => {
                // The receiver may be gone already.
                let _ = feed.send(Err(error)).await;
                return;
            }
        };
        let at_end = taken == Taken::End;
        if !chunk.is_empty() || at_end {
            crash::point("redis", "polled");
            let decoded = decoder.decode(&chunk);
            crash::point("redis", "decoded");
            let rejects = |decoded: &Decoded| matches!(decoded.change, BoardChange::Rejected(_));
            let position = at_end
                .then(|| partition.position().ok().flatten())
                .flatten();
            let fed = Fed {
                topic: Arc::clone(partition.topic()),
                partition: partition.number(),
                next: position.max(chunk.next_offset()),
                chunk: decoded.iter().any(rejects).then(|| chunk.clone()),
                decoded,
            };
            chunk.clear();
            if feed.send(Ok(fed)).await.is_err() {
                return;
            }
        }
        if taken != Taken::Full {
            tokio::select! {
                () = partition.arrived() => {}
                () = feed.closed() => return,
            }
        }
    }
}

/// How far the board is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// By partition, what may be committed.
    pub done: Vec<Reached>,
    /// Until when the lease is held for certain. A worker that was stopped for
    /// longer must not take back what its successor has committed, and these
    /// commits are fenced by nothing else: the group has no members.
    pub until: Instant,
}

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Everything before this is done.
    pub next: i64,
    /// When the latest of it was appended, in milliseconds since the epoch.
    pub appended_ms: Option<i64>,
}

/// Commits for the board's group, which has no members.
pub(super) struct Commits {
    pub kafka: Kafka,
    pub group: String,
    pub topic: String,
    /// What every commit says.
    pub life: TopicLife,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
}

/// A partition's last commit.
type Last = Option<(i64, Instant)>;

impl Commits {
    /// Commits what is done, now and then, and once more at the end, as long as
    /// the lease is held.
    pub(super) async fn run(self, mut progress: watch::Receiver<Progress>) {
        let mut last: Vec<Last> = Vec::new();
        let mut log = None;
        let mut checked = Instant::now();
        loop {
            let goes_on = progress.changed().await.is_ok();
            let now = progress.borrow_and_update().clone();
            last.resize(now.done.len(), None);
            if let Err(error) = self.commit(&now, &mut last, &mut log).await {
                tracing::warn!(sink = "redis", %error, "not committed");
                if is_unanswered(&error) {
                    // Librdkafka may have lost it, with all that would follow.
                    log = None;
                }
            } else if goes_on && checked.elapsed() >= COMMIT_AGAIN {
                checked = Instant::now();
                if let Some(log) = &log {
                    self.check(&mut last, log).await;
                }
            }
            if !goes_on {
                if Instant::now() < now.until {
                    self.note_end(&last).await;
                }
                return;
            }
            sleep(COMMIT_INTERVAL).await;
        }
    }

    async fn commit(
        &self,
        progress: &Progress,
        last: &mut [Last],
        log: &mut Option<Log>,
    ) -> Result<(), KafkaError> {
        let log = match log {
            Some(log) => log,
            None => log.insert(self.connect().await?),
        };
        for ((partition, done), last) in (0..).zip(&progress.done).zip(last) {
            let next = done.next;
            let stands =
                last.is_some_and(|(at, since)| at == next && since.elapsed() < COMMIT_AGAIN);
            if stands || Instant::now() >= progress.until {
                continue;
            }
            crash::point("redis", "committing");
            let metadata = self.life.text(next, done.appended_ms);
            log.commit(&self.topic, partition, next, &metadata).await?;
            crash::point("redis", "committed");
            if last.is_none() {
                self.note(partition, Noted::Begun).await;
            }
            *last = Some((next, Instant::now()));
            self.stats.committed(partition, next);
        }
        Ok(())
    }

    async fn note_end(&self, last: &[Last]) {
        for (partition, last) in (0..).zip(last) {
            if let Some((next, _)) = last {
                self.note(partition, Noted::EndedAt(*next)).await;
            }
        }
    }

    /// A commit that is missing later is known to be lost.
    async fn note(&self, partition: i32, noted: Noted) {
        let topic = self.life.topic();
        let noted = self.notes.note_committed(partition, topic, noted);
        if let Err(fault) = noted.await {
            tracing::debug!(sink = "redis", partition, ?fault, "not noted");
        }
    }

    /// Anybody can commit for a group without members. What is not ours any more
    /// is reported, and committed again.
    async fn check(&self, last: &mut [Last], log: &Log) {
        let Ok(commits) = log.commits(&self.topic, last.len()).await else {
            return;
        };
        let mut caution = None;
        for ((partition, commit), last) in (0..).zip(&commits).zip(last) {
            let commit = commit.as_ref().map(|(at, said)| (*at, said.as_str()));
            let noted = last.map(|(next, _)| Noted::EndedAt(next));
            let Some(broken) = Committed::of(commit, noted).trouble() else {
                continue;
            };
            *last = None;
            caution.get_or_insert_with(|| taken_back(&self.group, &self.topic, partition, broken));
        }
        if let Some(caution) = &caution {
            let (code, reason) = (&caution.code, &caution.reason);
            tracing::warn!(sink = "redis", code, reason, "committing again");
        }
        self.stats.set_caution(POSITIONS, caution);
    }

    /// A connection to a broker that answers: a commit to one that does not
    /// would be waited for.
    async fn connect(&self) -> Result<Log, KafkaError> {
        let log = self.kafka.log(&self.group)?;
        log.identity(&self.topic).await?;
        Ok(log)
    }
}

/// What an operator is told of a position that was moved or lost while the board
/// was followed.
fn taken_back(group: &str, topic: &str, partition: i32, broken: Break) -> Halt {
    let reading = Reading {
        group,
        topic,
        partition,
        bounds: Bounds { start: 0, end: 0 },
    };
    reading.halt(broken, "it is committed again", "fanout status --watch")
}

/// What was seen of the log.
#[derive(Debug)]
pub(super) enum Look {
    /// Where each partition ends, by number: of that moment, or later.
    Ends(Instant, Vec<i64>),
    /// What is being read is another topic, has other partitions, or has been
    /// made up for from the source.
    Other,
}

/// Looks at the log, for the lag and for how old what has been read is.
pub(super) struct Looks {
    pub log: Log,
    pub topic: String,
    pub identity: TopicIdentity,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
    /// What was made up for when the term began.
    pub made_up: Option<MadeUp>,
    pub seen: mpsc::Sender<Look>,
}

impl Looks {
    /// Runs until dropped or until the log reads otherwise.
    pub(super) async fn run(self) {
        let mut ticks = ticks(LOOK_INTERVAL);
        for number in 0_u32.. {
            ticks.tick().await;
            let at = Instant::now();
            let look = match self.log.ends(&self.topic).await {
                Ok(ends) => {
                    self.stats.set_ends(&ends);
                    Look::Ends(at, ends)
                }
                Err(error) => {
                    self.stats.lost_sight(&format!("kafka: {error}"));
                    continue;
                }
            };
            let is_other = number % IDENTIFY_EVERY == 0 && self.is_other().await;
            let look = if is_other { Look::Other } else { look };
            if self.seen.send(look).await.is_err() || is_other {
                return;
            }
        }
    }

    /// Whether the log has to be read again. Where that cannot be asked, it is
    /// asked again later.
    async fn is_other(&self) -> bool {
        let identity = self.log.identity(&self.topic).await;
        if identity.is_ok_and(|identity| identity != Some(self.identity)) {
            return true;
        }
        let made_up = self.notes.made_up(self.identity.id).await;
        made_up.is_ok_and(|made_up| made_up != self.made_up)
    }
}
