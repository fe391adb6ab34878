//! One lease session: reads the log from the start of the window, then follows
//! it and publishes the changes.
//!
//! If Redis becomes unreachable, the state read from the log stays valid. The
//! session continues and publishes the full board once Redis is back, unless
//! another worker has acquired the lease by then.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    context::{Context, EndedSession, SOURCE_CHECK_INTERVAL, SessionEnd, kafka, require_lease},
    progress::PartitionProgress,
    start::{Gap, Start, recovery_command},
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
        reader::{DecodedChunk, LogPoll, LogPoller, OffsetCommitter, Progress, read},
        sink::{Board, BoardChange, BoardMeta, Decoded},
    },
    time::clock::now_us,
    window::Applied,
};

/// Maximum number of decoded chunks waiting for the board.
const CHUNK_QUEUE: usize = 4;

/// Maximum number of log polls waiting for the board.
const POLL_QUEUE: usize = 4;

/// Interval at which an unchanged board is published.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The board counts as complete if it reached the end of the log this recently.
/// Several polls fit into this time.
const COMPLETE_WITHIN: Duration = Duration::from_secs(2);

/// Maximum wait before a failed publication is retried. The board must be fresh
/// soon after Redis is reachable again.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The state of one lease session.
pub(super) struct LeaseSession {
    _reader: Reader,
    /// The partition readers and the offset committer. They end with the session.
    tasks: JoinSet<()>,
    /// Polls the log until dropped.
    _poller: AbortOnDropHandle<()>,
    polls: mpsc::Receiver<LogPoll>,
    chunks: mpsc::Receiver<Result<DecodedChunk, KafkaError>>,
    /// Progress of all partitions, for the offset committer.
    progress: watch::Sender<Progress>,
    partitions: Vec<PartitionProgress>,
    gap: Option<Gap>,
    dead_letters: DeadLetters,
    identity: TopicIdentity,
    /// Whether records were applied since the last publication.
    dirty: bool,
    last_publication: Instant,
    /// Number of consecutive failed publications.
    failures: u32,
    /// Time of the next allowed publication.
    not_before: Instant,
}

impl LeaseSession {
    /// Starts to read the log from the start of the window.
    pub(super) async fn start(context: &Context) -> Result<Self, Fault> {
        let topic = context.shared.source.facts.topic();
        let identity = context.log.identity(&topic).await.map_err(kafka)?;
        let identity =
            identity.ok_or_else(|| Fault::retry(format!("waiting for topic {topic}")))?;
        let start = Start::find(context, identity).await?;
        for (partition, progress) in (0..).zip(&start.partitions) {
            let next = progress.commit_position().next;
            context.guard.goes_on(partition, next).await;
            context.guard.take_over(partition, identity, next).await;
        }
        let offsets = start.partitions.iter().map(|progress| Some(progress.next));
        let offsets: Vec<_> = offsets.collect();
        let group = context.shared.group(ConsumerGroup::Board);
        let reader = context.shared.kafka.reader(&group, &topic, &offsets);
        let (reader, kafka_partitions) = reader.map_err(kafka)?;
        let (chunk_sender, chunks) = mpsc::channel(CHUNK_QUEUE);
        let now = Instant::now();
        let positions = start.partitions.iter();
        let positions = positions.map(PartitionProgress::commit_position);
        let (progress, progress_updates) = watch::channel(Progress {
            positions: positions.collect(),
            lease_until: now,
        });
        let committer = OffsetCommitter {
            kafka: context.shared.kafka.clone(),
            group,
            topic: topic.clone(),
            incarnation: TopicLife::from(identity),
            stats: Arc::clone(&context.stats),
            notes: context.notes.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(committer.run(progress_updates));
        for (partition, committed) in kafka_partitions.into_iter().zip(start.committed) {
            context.stats.claimed(partition.number(), committed);
            let decoder = context.decoder.clone();
            tasks.spawn(read(partition, decoder, chunk_sender.clone()));
        }
        let gap = start.gap.as_ref().map(|gap| gap.degraded.clone());
        report_degraded(context, WINDOW, gap);
        report_degraded(context, POSITIONS, start.untrusted_offsets);
        let producer = context.shared.producer.clone();
        let dead_letters = DeadLetters::new(producer, ConsumerGroup::Board, identity);
        let (poll_sender, polls) = mpsc::channel(POLL_QUEUE);
        let poller = LogPoller {
            log: context.log.clone(),
            topic,
            identity,
            stats: Arc::clone(&context.stats),
            notes: context.notes.clone(),
            backfill: start.backfill,
            polls: poll_sender,
        };
        Ok(Self {
            _reader: reader,
            tasks,
            _poller: AbortOnDropHandle::new(tokio::spawn(poller.run())),
            polls,
            chunks,
            progress,
            partitions: start.partitions,
            gap: start.gap,
            dead_letters,
            identity,
            dirty: true,
            last_publication: now,
            failures: 0,
            not_before: now,
        })
    }

    /// Follows the log until shutdown or until the session has to end.
    pub(super) async fn run(mut self, context: &Context, board: &mut Board) -> EndedSession {
        let settings = &context.settings;
        let mut publish = ticks(Duration::from_millis(settings.publish_interval_ms));
        let mut renew = ticks(context.renewal_interval());
        let mut replace = ticks(Duration::from_secs(settings.replace_interval_seconds));
        replace.reset();
        let mut source_check = ticks(SOURCE_CHECK_INTERVAL);
        let mut is_warm = false;
        let end = loop {
            let step = tokio::select! {
                biased;
                () = context.shared.stop.cancelled() => break SessionEnd::Stopped,
                _ = publish.tick(), if is_warm => self.publish(context, board).await,
                _ = renew.tick(), if !is_warm => self.renew(context, board).await,
                _ = replace.tick() => {
                    board.force_full_publish();
                    Ok(())
                }
                _ = source_check.tick() => if context.stats.is_held_by_source() {
                    Err(SessionEnd::SourceHalted)
                } else {
                    Ok(())
                },
                Some(poll) = self.polls.recv() => self.apply_poll(poll),
                chunk = self.chunks.recv() => self.apply_chunk(chunk, context, board).await,
            };
            if let Err(end) = step {
                break end;
            }
            if !is_warm && self.is_rebuilt() {
                crash::point("redis", "rebuilt");
                is_warm = true;
                context.stats.set_phase(Phase::Running);
            }
        };
        if is_warm && matches!(end, SessionEnd::Stopped) {
            // A last publication keeps the board as fresh as possible.
            let asked = Instant::now();
            if let Ok(true) = board.publish(self.meta()).await {
                self.extend_lease(context, asked);
            }
            crash::point("redis", "leaving");
        }
        self.shut_down(context).await;
        EndedSession {
            end,
            was_warm: is_warm,
        }
    }

    /// Ends the session's tasks. The offset committer first commits once more.
    async fn shut_down(mut self, context: &Context) {
        const TIMEOUT: Duration = Duration::from_secs(3);
        drop(self.progress);
        self.chunks.close();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        // Dropping the set aborts the tasks that have not ended by then.
        let _ = tokio::time::timeout(TIMEOUT, all_ended).await;
        for partition in (0..).take(self.partitions.len()) {
            context.stats.released(partition);
        }
        for subject in [WINDOW, POSITIONS] {
            context.stats.set_degradation(subject, None);
        }
    }

    /// Renews the lease before the first publication.
    async fn renew(&mut self, context: &Context, board: &mut Board) -> Result<(), SessionEnd> {
        let asked = Instant::now();
        match require_lease(board.renew_lease().await) {
            Err(SessionEnd::Fault(fault)) => self.handle_fault(context, fault),
            Err(SessionEnd::LeaseLost) => self.reacquire_lease(context, board).await,
            outcome => {
                self.extend_lease(context, asked);
                outcome
            }
        }
    }

    /// Returns true once all records that were in the log at the start of the
    /// session are applied.
    fn is_rebuilt(&self) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.all(|progress| progress.next >= progress.goal)
    }

    /// Records that the lease was acquired or renewed at or after `asked`.
    fn extend_lease(&self, context: &Context, asked: Instant) {
        let until = asked + Duration::from_millis(context.settings.lease_ms);
        self.progress
            .send_modify(|progress| progress.lease_until = until);
    }

    fn meta(&self) -> BoardMeta {
        let partitions = self.partitions.iter();
        let staleness = partitions.map(PartitionProgress::staleness).max();
        let staleness = staleness.unwrap_or_default();
        let partitions = self.partitions.iter();
        BoardMeta {
            as_of_us: now_us(),
            positions: partitions.map(|progress| progress.next).collect(),
            staleness,
            complete: staleness <= COMPLETE_WITHIN && self.gap.is_none(),
        }
    }

    /// Publishes a changed board, and periodically an unchanged one.
    async fn publish(&mut self, context: &Context, board: &mut Board) -> Result<(), SessionEnd> {
        if board.is_ahead_of(now_us()) {
            return self.end_after_clock_change(board).await;
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
            context.stats.set_degradation(WINDOW, None);
        }
        crash::point("redis", "publishing");
        let asked = Instant::now();
        match board.publish(self.meta()).await {
            Ok(true) => {
                crash::point("redis", "published");
                self.extend_lease(context, asked);
                self.dirty = false;
                self.failures = 0;
                self.last_publication = Instant::now();
                context.stats.unhalt(WHOLE_SINK);
                context.stats.wrote(WHOLE_SINK);
                Ok(())
            }
            Ok(false) => self.reacquire_lease(context, board).await,
            Err(fault) => self.handle_fault(context, fault),
        }
    }

    /// Ends the session because the clock was set back. The published board is
    /// dated in the future, so it is marked incomplete until it is rebuilt from
    /// the log.
    async fn end_after_clock_change(&mut self, board: &mut Board) -> Result<(), SessionEnd> {
        tracing::warn!(
            sink = "redis",
            "the clock was set back: the board is rebuilt"
        );
        let incomplete = BoardMeta {
            complete: false,
            ..self.meta()
        };
        if let Err(fault) = board.publish(incomplete).await {
            tracing::debug!(?fault, "cannot mark the board as incomplete");
        }
        Err(SessionEnd::RebuildRequired)
    }

    /// Acquires the lease again after it expired or Redis lost it. If no other
    /// worker has it, the state read from the log is still valid.
    async fn reacquire_lease(
        &mut self,
        context: &Context,
        board: &mut Board,
    ) -> Result<(), SessionEnd> {
        let asked = Instant::now();
        match board.acquire_lease().await {
            Ok(true) => {
                self.extend_lease(context, asked);
                board.force_full_publish();
                self.dirty = true;
                Ok(())
            }
            Ok(false) => {
                self.progress
                    .send_modify(|progress| progress.lease_until = asked);
                Err(SessionEnd::LeaseLost)
            }
            Err(fault) => self.handle_fault(context, fault),
        }
    }

    /// Ends the session on a halt. Otherwise reports the fault and delays the next
    /// publication.
    fn handle_fault(&mut self, context: &Context, fault: Fault) -> Result<(), SessionEnd> {
        if matches!(fault, Fault::Halt(_)) {
            return Err(SessionEnd::Fault(fault));
        }
        let wait = context.report_fault(fault, self.failures).min(MAX_WAIT);
        self.failures += 1;
        self.not_before = Instant::now() + wait;
        self.dirty = true;
        Ok(())
    }

    /// Applies the result of a log poll.
    fn apply_poll(&mut self, poll: LogPoll) -> Result<(), SessionEnd> {
        match poll {
            LogPoll::Ends(time, ends) if ends.len() == self.partitions.len() => {
                for (progress, end) in self.partitions.iter_mut().zip(ends) {
                    progress.set_end(time, end);
                }
                Ok(())
            }
            LogPoll::Ends(..) | LogPoll::Changed => {
                tracing::warn!(
                    sink = "redis",
                    "the topic or its history has changed: the board is rebuilt"
                );
                Err(SessionEnd::RebuildRequired)
            }
        }
    }

    /// Applies a chunk of a partition reader to the board.
    async fn apply_chunk(
        &mut self,
        chunk: Option<Result<DecodedChunk, KafkaError>>,
        context: &Context,
        board: &mut Board,
    ) -> Result<(), SessionEnd> {
        let chunk = match chunk {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(SessionEnd::Fault(kafka(error))),
            None => return Err(SessionEnd::Fault(Fault::retry("kafka: all readers ended"))),
        };
        let index = usize::try_from(chunk.partition).unwrap_or(usize::MAX);
        let Some(progress) = self.partitions.get_mut(index) else {
            return Ok(());
        };
        if progress.next < progress.goal {
            crash::point("redis", "rebuilding");
        }
        let cut = check_shapes(&context.guard, &chunk.decoded, progress.counted_to).await;
        let applied = cut.as_ref().map_or(chunk.decoded.len(), |cut| cut.index);
        let mut done = Done::default();
        let mut rejected = Vec::new();
        for record in chunk.decoded.iter().take(applied) {
            let counts = record.offset >= progress.counted_to;
            let rejection = apply(board, record, counts.then_some(&mut done))?;
            rejected.extend(rejection.filter(|_| counts).cloned());
        }
        crash::point("redis", "applied");
        if let Some(records) = &chunk.chunk {
            let sent = self.dead_letters.send_all(records, &mut rejected).await;
            sent.map_err(SessionEnd::Fault)?;
            crash::point("redis", "letters_sent");
        }
        self.dirty |= !chunk.decoded.is_empty();
        context.stats.add(&done);
        let times = chunk.decoded[..applied]
            .iter()
            .map(|record| record.record_time_us / 1000);
        progress.appended_ms = progress.appended_ms.max(times.max());
        let previous = progress.next;
        let halt_offset = chunk.decoded.get(applied).map(|record| record.offset);
        progress.advance(halt_offset.or(chunk.next).unwrap_or(previous));
        context.stats.passed(applied, progress.next - previous);
        let position = progress.commit_position();
        self.progress.send_modify(|progress| {
            if let Some(current) = progress.positions.get_mut(index) {
                *current = position;
            }
        });
        if let (Some(cut), Some(offset)) = (cut, halt_offset) {
            let partition = chunk.partition;
            context.guard.hold(partition, self.identity, offset).await;
            let position = format!("{}/{partition}@{offset}", chunk.topic);
            let halt = cut.halt(&position, &recovery_command(&context.settings));
            return Err(SessionEnd::Fault(Fault::Halt(halt)));
        }
        context.guard.goes_on(chunk.partition, position.next).await;
        Ok(())
    }
}

/// Returns where the sink has to halt because of records with an unexpected shape.
/// Records before `counted_to` were checked by an earlier session.
async fn check_shapes(guard: &ShapeGuard, decoded: &[Decoded], counted_to: i64) -> Option<Cut> {
    let mut understood = None;
    let mut rejected = Vec::new();
    for (index, record) in decoded.iter().enumerate() {
        match &record.change {
            _ if record.offset < counted_to => {}
            BoardChange::Event { event: Some(_), .. } => understood = Some(index),
            BoardChange::Rejected(reject) if reject.shape.is_some() => rejected.push(Rejected {
                index,
                after: understood,
                ..reject.clone()
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

/// Reports why the board is degraded, or that it is not.
fn report_degraded(context: &Context, subject: i32, degraded: Option<Halt>) {
    if let Some(degraded) = &degraded {
        let (code, reason) = (&degraded.code, &degraded.reason);
        tracing::warn!(sink = "redis", code, reason, "the board is degraded");
    }
    context.stats.set_degradation(subject, degraded);
}

/// Applies a record and counts it in `done`, which is `None` if an earlier session
/// has counted it. Returns the record if it must be dead-lettered.
fn apply<'r>(
    board: &mut Board,
    record: &'r Decoded,
    done: Option<&mut Done<'r>>,
) -> Result<Option<&'r Rejected>, SessionEnd> {
    let mut uncounted = Done::default();
    let done = done.unwrap_or(&mut uncounted);
    let mut ignore = |reason| *done.ignored.entry(reason).or_default() += 1;
    match &record.change {
        BoardChange::Event { .. } if board.is_truncated(record) => ignore("truncated"),
        BoardChange::Event { id, event } => {
            match board.apply(*id, *event, record.record_time_us) {
                Applied::Counted | Applied::Waiting | Applied::Deleted => done.applied += 1,
                outcome => ignore(outcome.code()),
            }
            done.extra_fields += u64::from(record.extra_fields);
        }
        BoardChange::Truncate => {
            if board.truncate(record) {
                return Err(SessionEnd::RebuildRequired);
            }
            done.applied += 1;
        }
        BoardChange::Ignored(reason) => ignore(reason.code()),
        BoardChange::Rejected(rejected) => {
            done.dead_letters.push(rejected.code);
            return Ok(Some(rejected));
        }
    }
    Ok(None)
}
