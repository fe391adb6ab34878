//! What runs beside the board while a term lasts: a reader for each partition,
//! the commits, and the looks at the log.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep},
};

use super::stats::SinkStats;
use crate::{
    chunk::Chunk,
    clients::kafka::{
        Committer, KafkaError, Limits, Log, Partition, Taken, TopicIdentity, is_unanswered,
    },
    crash,
    event::FactDecoder,
    sinks::board::{BoardChange, Decoded, decode},
};

/// Records decoded at once.
const LIMITS: Limits = Limits {
    records: 2048,
    bytes: 4 * 1024 * 1024,
};

/// Offsets are committed at most this often.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The log's ends are read this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether it still is the same topic is asked at each so many looks.
const IDENTIFY_EVERY: u32 = 12;

/// What a partition's task sends to the board.
pub(super) struct Fed {
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
    decoder: FactDecoder,
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
            let decoded = decode(&decoder, &chunk);
            crash::point("redis", "decoded");
            let rejects = |decoded: &Decoded| matches!(decoded.change, BoardChange::Rejected(_));
            let position = at_end
                .then(|| partition.position().ok().flatten())
                .flatten();
            let fed = Fed {
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
    pub next: Vec<i64>,
    /// Until when the lease is held for certain. A worker that was stopped for
    /// longer must not take back what its successor has committed, and these
    /// commits are fenced by nothing else: the group has no members.
    pub until: Instant,
}

/// Commits what is done, now and then, and once more at the end, as long as the
/// lease is held. Gives up where a commit gets no answer: another consumer has
/// to go on.
pub(super) async fn commit(
    committers: Vec<Committer>,
    mut progress: watch::Receiver<Progress>,
    stats: Arc<SinkStats>,
) {
    let mut committed: Vec<i64> = vec![-1; committers.len()];
    loop {
        let goes_on = progress.changed().await.is_ok();
        let Progress { next, until } = progress.borrow_and_update().clone();
        for ((number, committer), (next, committed)) in
            (0..).zip(&committers).zip(next.iter().zip(&mut committed))
        {
            if next == committed || Instant::now() >= until {
                continue;
            }
            crash::point("redis", "committing");
            match committer.commit(*next, "").await {
                Ok(()) => {
                    crash::point("redis", "committed");
                    *committed = *next;
                    stats.committed(number, *next);
                }
                Err(error) => {
                    tracing::warn!(sink = "redis", %error, "not committed");
                    if is_unanswered(&error) {
                        return;
                    }
                }
            }
        }
        if !goes_on {
            return;
        }
        sleep(COMMIT_INTERVAL).await;
    }
}

/// What was seen of the log.
#[derive(Debug)]
pub(super) enum Look {
    /// Where each partition ends, by number: of that moment, or later.
    Ends(Instant, Vec<i64>),
    /// It is another topic, or has other partitions, than what is being read.
    Other,
}

/// Looks at the log, for the lag and for how old what has been read is, until
/// dropped or until the log is another.
pub(super) async fn look(
    log: Log,
    topic: String,
    identity: TopicIdentity,
    stats: Arc<SinkStats>,
    looks: mpsc::Sender<Look>,
) {
    let mut ticks = ticks(LOOK_INTERVAL);
    for number in 0_u32.. {
        ticks.tick().await;
        let at = Instant::now();
        let look = match log.ends(&topic).await {
            Ok(ends) => {
                stats.set_ends(&ends);
                Look::Ends(at, ends)
            }
            Err(error) => {
                stats.lost_sight(&format!("kafka: {error}"));
                continue;
            }
        };
        let is_other = number % IDENTIFY_EVERY == 0
            && log
                .identity(&topic)
                .await
                .is_ok_and(|now| now != Some(identity));
        let look = if is_other { Look::Other } else { look };
        if looks.send(look).await.is_err() || is_other {
            return;
        }
    }
}

/// Ticks that are not made up for when they were missed.
pub(super) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
