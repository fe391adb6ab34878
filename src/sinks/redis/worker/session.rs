//! One term of the board's holder: the log read from where the window begins,
//! then followed, and what changed published.
//!
//! Redis may come and go meanwhile: what is known of the log stays right, so
//! the term goes on and publishes the whole board when Redis is back, unless
//! another worker has the lease by then.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    context::{Context, Ended, HOLD_INTERVAL, TermEnd, held, kafka},
    progress::Track,
    start::{Gap, Start, recovery},
};
use crate::{
    crash,
    kafka::{KafkaError, Reader, TopicIdentity},
    runtime::{
        Fault, Halt, Rejected, TopicLife,
        dead_letter::DeadLetters,
        retry::ticks,
        shape::{Batch, Cut, ShapeGuard},
        stats::{Done, POSITIONS, Phase, WHOLE_SINK, WINDOW},
    },
    sink_kind::ConsumerGroup,
    sinks::redis::{
        reader::{Commits, Fed, Look, Looks, Progress, read},
        sink::{Board, BoardChange, Decoded, Moment},
    },
    time::clock::now_us,
    window::Applied,
};

/// Decoded chunks waiting for the board.
const QUEUE: usize = 4;

/// Looks at the log waiting for the board.
const LOOKS: usize = 4;

/// The board is published this often though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A board is complete that held all of the log so long ago: a few looks.
const COMPLETE_WITHIN: Duration = Duration::from_secs(2);

/// The longest wait until a Redis that was away is tried again: the board has
/// to be fresh soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The state of one term.
pub(super) struct Term {
    _reader: Reader,
    /// Reading and committing: they end when the term does.
    tasks: JoinSet<()>,
    /// Looks at the log, until dropped.
    _looking: AbortOnDropHandle<()>,
    looks: mpsc::Receiver<Look>,
    feed: mpsc::Receiver<Result<Fed, KafkaError>>,
    /// How far each partition is done, for the committing task.
    progress: watch::Sender<Progress>,
    tracks: Vec<Track>,
    gap: Option<Gap>,
    letters: DeadLetters,
    identity: TopicIdentity,
    dirty: bool,
    last_publication: Instant,
    /// Publications that failed in a row, and when the next may be tried.
    failures: u32,
    not_before: Instant,
}

impl Term {
    /// Reads the log from where the window begins.
    pub(super) async fn begin(context: &Context) -> Result<Self, Fault> {
        let topic = context.shared.source.facts.topic();
        let identity = context.log.identity(&topic).await.map_err(kafka)?;
        let identity =
            identity.ok_or_else(|| Fault::retry(format!("waiting for topic {topic}")))?;
        let start = Start::find(context, identity).await?;
        for (partition, track) in (0..).zip(&start.tracks) {
            let next = track.done().next;
            context.guard.goes_on(partition, next).await;
            context.guard.take_over(partition, identity, next).await;
        }
        let starts: Vec<_> = start.tracks.iter().map(|track| Some(track.next)).collect();
        let group = context.shared.group(ConsumerGroup::Board);
        let reading = context.shared.kafka.reader(&group, &topic, &starts);
        let (reader, partitions) = reading.map_err(kafka)?;
        let (sender, feed) = mpsc::channel(QUEUE);
        let now = Instant::now();
        let (progress, to_commit) = watch::channel(Progress {
            done: start.tracks.iter().map(Track::done).collect(),
            until: now,
        });
        let commits = Commits {
            kafka: context.shared.kafka.clone(),
            group,
            topic: topic.clone(),
            life: TopicLife::from(identity),
            stats: Arc::clone(&context.stats),
            notes: context.notes.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(commits.run(to_commit));
        for (partition, committed) in partitions.into_iter().zip(start.committed) {
            context.stats.claimed(partition.number(), committed);
            tasks.spawn(read(partition, context.decoder.clone(), sender.clone()));
        }
        let gap = start.gap.as_ref().map(|gap| gap.caution.clone());
        caution(context, WINDOW, gap);
        caution(context, POSITIONS, start.distrust);
        let producer = context.shared.producer.clone();
        let letters = DeadLetters::new(producer, ConsumerGroup::Board, identity);
        let (seen, looks) = mpsc::channel(LOOKS);
        let looking = Looks {
            log: context.log.clone(),
            topic,
            identity,
            stats: Arc::clone(&context.stats),
            notes: context.notes.clone(),
            made_up: start.made_up,
            seen,
        };
        Ok(Self {
            _reader: reader,
            tasks,
            _looking: AbortOnDropHandle::new(tokio::spawn(looking.run())),
            looks,
            feed,
            progress,
            tracks: start.tracks,
            gap: start.gap,
            letters,
            identity,
            dirty: true,
            last_publication: now,
            failures: 0,
            not_before: now,
        })
    }

    /// Follows the log until told to stop, or until the lease is lost.
    pub(super) async fn run(mut self, context: &Context, board: &mut Board) -> Ended {
        let settings = &context.settings;
        let mut publish = ticks(Duration::from_millis(settings.publish_interval_ms));
        let mut renew = ticks(context.renewal());
        let mut replace = ticks(Duration::from_secs(settings.replace_interval_seconds));
        replace.reset();
        let mut hold = ticks(HOLD_INTERVAL);
        let mut warm = false;
        let how = loop {
            let step = tokio::select! {
                biased;
                () = context.shared.stop.cancelled() => break TermEnd::Stopped,
                _ = publish.tick(), if warm => self.publish(context, board).await,
                _ = renew.tick(), if !warm => self.renew(context, board).await,
                _ = replace.tick() => {
                    board.distrust();
                    Ok(())
                }
                _ = hold.tick() => if context.stats.is_held_by_source() {
                    Err(TermEnd::Held)
                } else {
                    Ok(())
                },
                Some(look) = self.looks.recv() => self.looked(look),
                fed = self.feed.recv() => self.take(fed, context, board).await,
            };
            if let Err(end) = step {
                break end;
            }
            if !warm && self.has_all_of_then() {
                crash::point("redis", "rebuilt");
                warm = true;
                context.stats.set_phase(Phase::Running);
            }
        };
        if warm && matches!(how, TermEnd::Stopped) {
            // The last word; without it the board is a moment older.
            let asked = Instant::now();
            if let Ok(true) = board.publish(self.moment()).await {
                self.held_since(context, asked);
            }
            crash::point("redis", "leaving");
        }
        self.end(context).await;
        Ended {
            how,
            was_warm: warm,
        }
    }

    /// Ends the term's tasks, the committing one after a last commit.
    async fn end(mut self, context: &Context) {
        const LAST_COMMIT: Duration = Duration::from_secs(3);
        drop(self.progress);
        self.feed.close();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // What does not end by itself is ended by dropping the set.
        let _ = tokio::time::timeout(LAST_COMMIT, ended).await;
        for partition in (0..).take(self.tracks.len()) {
            context.stats.released(partition);
        }
        for about in [WINDOW, POSITIONS] {
            context.stats.set_caution(about, None);
        }
    }

    /// Keeps the lease until the first publication.
    async fn renew(&mut self, context: &Context, board: &mut Board) -> Result<(), TermEnd> {
        let asked = Instant::now();
        match held(board.renew_lease().await) {
            Err(TermEnd::Trouble(fault)) => self.trouble(context, fault),
            Err(TermEnd::LeaseLost) => self.take_back(context, board).await,
            outcome => {
                self.held_since(context, asked);
                outcome
            }
        }
    }

    /// Whether everything is in that was in the log when the term began.
    fn has_all_of_then(&self) -> bool {
        self.tracks.iter().all(|track| track.next >= track.goal)
    }

    /// The lease was given, or renewed, at this moment or later.
    fn held_since(&self, context: &Context, asked: Instant) {
        let until = asked + Duration::from_millis(context.settings.lease_ms);
        self.progress.send_modify(|progress| progress.until = until);
    }

    fn moment(&self) -> Moment {
        let behind = self.tracks.iter().map(Track::behind).max();
        let behind = behind.unwrap_or_default();
        Moment {
            as_of_us: now_us(),
            positions: self.tracks.iter().map(|track| track.next).collect(),
            behind,
            complete: behind <= COMPLETE_WITHIN && self.gap.is_none(),
        }
    }

    /// Publishes where something changed, and now and then where nothing did.
    async fn publish(&mut self, context: &Context, board: &mut Board) -> Result<(), TermEnd> {
        if board.has_outrun(now_us()) {
            return self.set_back(board).await;
        }
        let is_due = self.dirty || self.last_publication.elapsed() >= HEARTBEAT;
        if !is_due || Instant::now() < self.not_before {
            return Ok(());
        }
        if self
            .gap
            .take_if(|gap| Instant::now() >= gap.until)
            .is_some()
        {
            context.stats.set_caution(WINDOW, None);
        }
        crash::point("redis", "publishing");
        let asked = Instant::now();
        match board.publish(self.moment()).await {
            Ok(true) => {
                crash::point("redis", "published");
                self.held_since(context, asked);
                self.dirty = false;
                self.failures = 0;
                self.last_publication = Instant::now();
                context.stats.unhalt(WHOLE_SINK);
                context.stats.wrote(WHOLE_SINK);
                Ok(())
            }
            Ok(false) => self.take_back(context, board).await,
            Err(fault) => self.trouble(context, fault),
        }
    }

    /// The clock was set back. What is published is of a moment that is yet to
    /// come, and says so until the board is built again from the log.
    async fn set_back(&mut self, board: &mut Board) -> Result<(), TermEnd> {
        tracing::warn!(
            sink = "redis",
            "the clock was set back: the board is rebuilt"
        );
        let incomplete = Moment {
            complete: false,
            ..self.moment()
        };
        if let Err(fault) = board.publish(incomplete).await {
            tracing::debug!(?fault, "the board stays as it is until it is rebuilt");
        }
        Err(TermEnd::ReadAgain)
    }

    /// The lease has run out, or Redis has lost it. Where nobody else has it,
    /// what is known of the log is as right as before.
    async fn take_back(&mut self, context: &Context, board: &mut Board) -> Result<(), TermEnd> {
        let asked = Instant::now();
        match board.take_lease().await {
            Ok(true) => {
                self.held_since(context, asked);
                board.distrust();
                self.dirty = true;
                Ok(())
            }
            Ok(false) => {
                self.progress.send_modify(|progress| progress.until = asked);
                Err(TermEnd::LeaseLost)
            }
            Err(fault) => self.trouble(context, fault),
        }
    }

    /// Redis is away for a while, or for good.
    fn trouble(&mut self, context: &Context, fault: Fault) -> Result<(), TermEnd> {
        if matches!(fault, Fault::Halt(_)) {
            return Err(TermEnd::Trouble(fault));
        }
        let wait = context.endure(fault, self.failures).min(LONGEST_WAIT);
        self.failures += 1;
        self.not_before = Instant::now() + wait;
        self.dirty = true;
        Ok(())
    }

    /// Takes what was seen of the log.
    fn looked(&mut self, look: Look) -> Result<(), TermEnd> {
        match look {
            Look::Ends(at, ends) if ends.len() == self.tracks.len() => {
                for (track, end) in self.tracks.iter_mut().zip(ends) {
                    track.looked(at, end);
                }
                Ok(())
            }
            Look::Ends(..) | Look::Other => {
                tracing::warn!(
                    sink = "redis",
                    "the log reads otherwise: the board is rebuilt"
                );
                Err(TermEnd::ReadAgain)
            }
        }
    }

    /// Takes what a partition's task has read.
    async fn take(
        &mut self,
        fed: Option<Result<Fed, KafkaError>>,
        context: &Context,
        board: &mut Board,
    ) -> Result<(), TermEnd> {
        let fed = match fed {
            Some(Ok(fed)) => fed,
            Some(Err(error)) => return Err(TermEnd::Trouble(kafka(error))),
            None => return Err(TermEnd::Trouble(Fault::retry("kafka: reading ended"))),
        };
        let index = usize::try_from(fed.partition).unwrap_or(usize::MAX);
        let Some(track) = self.tracks.get_mut(index) else {
            return Ok(());
        };
        if track.next < track.goal {
            crash::point("redis", "rebuilding");
        }
        let cut = judge(&context.guard, &fed.decoded, track.counted_to).await;
        let taken = cut.as_ref().map_or(fed.decoded.len(), |cut| cut.index);
        let mut done = Done::default();
        let mut rejected = Vec::new();
        for record in fed.decoded.iter().take(taken) {
            let counts = record.offset >= track.counted_to;
            let found = apply(board, record, counts.then_some(&mut done))?;
            rejected.extend(found.filter(|_| counts).cloned());
        }
        crash::point("redis", "applied");
        if let Some(chunk) = &fed.chunk {
            let sent = self.letters.send_all(chunk, &mut rejected).await;
            sent.map_err(TermEnd::Trouble)?;
            crash::point("redis", "letters_sent");
        }
        self.dirty |= !fed.decoded.is_empty();
        context.stats.add(&done);
        let times = fed.decoded[..taken]
            .iter()
            .map(|record| record.record_time_us / 1000);
        track.appended_ms = track.appended_ms.max(times.max());
        let before = track.next;
        let first_left = fed.decoded.get(taken).map(|record| record.offset);
        track.advanced(first_left.or(fed.next).unwrap_or(before));
        context.stats.passed(taken, track.next - before);
        let now = track.done();
        self.progress.send_modify(|progress| {
            if let Some(at) = progress.done.get_mut(index) {
                *at = now;
            }
        });
        if let (Some(cut), Some(offset)) = (cut, first_left) {
            let partition = fed.partition;
            context.guard.hold(partition, self.identity, offset).await;
            let place = format!("{}/{}@{offset}", fed.topic, fed.partition);
            let halt = cut.halt(&place, &recovery(&context.settings));
            return Err(TermEnd::Trouble(Fault::Halt(halt)));
        }
        context.guard.goes_on(fed.partition, now.next).await;
        Ok(())
    }
}

/// Where the sink has to halt because of records that are not of the expected
/// shape; those before `counted_to` an earlier term has judged.
async fn judge(guard: &ShapeGuard, decoded: &[Decoded], counted_to: i64) -> Option<Cut> {
    let mut understood = None;
    let mut rejected = Vec::new();
    for (index, record) in decoded.iter().enumerate() {
        match &record.change {
            _ if record.offset < counted_to => {}
            BoardChange::Event { event: Some(_), .. } => understood = Some(index),
            BoardChange::Rejected(one) if one.shape.is_some() => rejected.push(Rejected {
                index,
                after: understood,
                ..one.clone()
            }),
            _ => {}
        }
    }
    let batch = Batch {
        rejected: &rejected,
        understood,
    };
    guard.judge(batch).await
}

/// Reports what the board is not to be relied on for.
fn caution(context: &Context, about: i32, caution: Option<Halt>) {
    if let Some(caution) = &caution {
        let (code, reason) = (&caution.code, &caution.reason);
        tracing::warn!(sink = "redis", code, reason, "history is broken");
    }
    context.stats.set_caution(about, caution);
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
                return Err(TermEnd::ReadAgain);
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
