//! One partition of one sink, in one sequential loop: gather, deliver,
//! dead-letter, settle, commit. Because each step waits for the one before, a
//! crash between any two repeats work and loses none.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Delivery, Fault, Halt, KnownPlaceholders, Noted, Notes, PartitionSink,
    dead_letter::DeadLetters,
    retry::{Ending, Patience},
    shape::{self, Cut, ShapeGuard},
    stats::{Done, SinkStats},
};
use crate::{
    crash,
    kafka::{
        Committer, KafkaError, Limits, Partition, Taken, TopicIdentity, chunk::Chunk, is_fenced,
        is_out_of_range, is_unanswered,
    },
};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    pub limits: Limits,
    /// How long the first record may wait for others.
    pub linger: Duration,
}

/// What the loop needs.
pub struct Loop<S> {
    pub partition: Partition,
    pub committer: Committer,
    pub sink: S,
    pub batching: Batching,
    pub stats: Arc<SinkStats>,
    pub letters: DeadLetters,
    pub notes: Notes,
    pub placeholders: KnownPlaceholders,
    pub patience: Patience,
    pub ending: Ending,
    /// What the group had committed, with its metadata.
    pub found: Option<(i64, String)>,
    /// Where reading begins; later, what is committed.
    pub committed: i64,
    /// Records done since.
    pub done: usize,
    /// Shared by the partitions of the sink.
    pub guard: Arc<ShapeGuard>,
    /// The topic that the partition is of.
    pub topic: TopicIdentity,
    /// Why the batch in hand is not delivered.
    pub halted: Option<Halt>,
    /// What comes after the batch in hand.
    pub rest: Option<Chunk>,
    /// After a failed settle: when to retry, and how often it has failed.
    pub unsettled: Option<(Instant, u32)>,
}

/// Why the loop ended before it was told to.
#[derive(Debug)]
enum Abandoned {
    /// Told to stop while the store did not take the batch.
    Stopped,
    /// The partition is no longer this worker's.
    Fenced,
    /// The consumer itself is in trouble, worth a new start.
    Consumer(KafkaError),
}

impl<S: PartitionSink> Loop<S> {
    /// Runs until told to stop, or until the partition is lost.
    pub async fn run(mut self) {
        let number = self.partition.number();
        match self.take_up().await {
            Ok(()) => self.work().await,
            Err(Abandoned::Fenced) => {
                tracing::info!(sink = self.stats.name(), number, "partition lost");
            }
            Err(_) => {}
        }
        self.guard.release(number);
        self.stats.released(number);
    }

    /// Notes where the group is at an end in good order, for as long as that does not hold up the end.
    async fn note(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let number = self.partition.number();
        let ended = Noted::EndedAt(self.committed);
        let noted = self.notes.note_committed(number, self.topic.id, ended);
        if !matches!(timeout(PATIENCE, noted).await, Ok(Ok(()))) {
            tracing::debug!(sink = self.stats.name(), number, "not noted");
        }
    }

    /// Commits where reading begins, unless the group is there in these very
    /// words. From then on a group without a position has lost it, and has not
    /// just begun.
    async fn take_up(&mut self) -> Result<(), Abandoned> {
        let begin = self.committed;
        let number = self.partition.number();
        let caution = self.sink.caution();
        if let Some(caution) = &caution {
            let (code, reason) = (&caution.code, &caution.reason);
            tracing::warn!(sink = self.stats.name(), code, reason, "history is broken");
        }
        self.stats.set_caution(number, caution);
        let here = (begin, self.sink.metadata(begin));
        if self.found.as_ref() == Some(&here) {
            self.stats.committed(number, begin);
            return Ok(());
        }
        self.send(begin).await
    }

    async fn work(&mut self) {
        let number = self.partition.number();
        let mut batch = Chunk::new(Arc::clone(self.partition.topic()), number);
        let mut troubled = false;
        loop {
            let step = match self.gather(&mut batch).await {
                Ok(at_end) => {
                    if std::mem::take(&mut troubled) {
                        self.stats.recovered(number);
                    }
                    self.finish(&mut batch, at_end).await
                }
                Err(error) => Err(Abandoned::Consumer(error)),
            };
            match step {
                Ok(()) if !self.ending.stop.is_cancelled() => {}
                Ok(()) => {
                    self.note().await;
                    break;
                }
                Err(Abandoned::Stopped) => break,
                Err(Abandoned::Fenced) => {
                    tracing::info!(sink = self.stats.name(), number, "partition lost");
                    break;
                }
                Err(Abandoned::Consumer(error)) if is_out_of_range(&error) => {
                    // Whoever takes the partition over again judges the gap.
                    tracing::warn!(sink = self.stats.name(), number, "the log has moved on");
                    self.ending.again.cancel();
                    break;
                }
                Err(Abandoned::Consumer(error)) => {
                    troubled = true;
                    // Told to stop or not, the loop looks at that next.
                    let fault = Fault::retry(format!("kafka: {error}"));
                    let _ = self.endure(fault, 0).await;
                }
            }
        }
    }

    /// Fills the batch; returns whether the end of the partition was reached
    /// with its last record.
    async fn gather(&mut self, batch: &mut Chunk) -> Result<bool, KafkaError> {
        let mut deadline: Option<Instant> = None;
        let mut at_end = false;
        loop {
            let before = batch.len();
            let taken = self.partition.take(batch, self.batching.limits)?;
            if batch.len() > before {
                at_end = false;
            }
            match taken {
                Taken::Full => return Ok(false),
                Taken::End => at_end = true,
                Taken::Drained => {}
            }
            if self.ending.stop.is_cancelled() {
                return Ok(at_end);
            }
            if taken == Taken::End && batch.is_empty() {
                return Ok(true);
            }
            if !batch.is_empty() {
                let limit = *deadline.get_or_insert_with(|| Instant::now() + self.batching.linger);
                if Instant::now() >= limit {
                    return Ok(at_end);
                }
            }
            let limit = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = self.partition.arrived() => {}
                () = owed(&mut self.sink, self.unsettled), if batch.is_empty() => return Ok(at_end),
                () = self.ending.stop.cancelled() => {}
                () = sleep_until(limit) => {}
            }
        }
    }

    /// Everything after gathering.
    async fn finish(&mut self, batch: &mut Chunk, at_end: bool) -> Result<(), Abandoned> {
        let mut settled = false;
        while !batch.is_empty() {
            crash::point(self.stats.name(), "polled");
            self.prepare(batch).await?;
            let next = self.deliver(batch).await?;
            self.settle().await?;
            if batch.is_empty()
                && let Some(rest) = self.rest.take()
            {
                *batch = rest;
            }
            settled = true;
            let next = if batch.is_empty() && at_end {
                self.position().max(next)
            } else {
                next
            };
            self.commit(next).await?;
        }
        // Records are done; what else is owed or past the last record remains.
        let metadata_before = self.sink.metadata(self.committed);
        if !settled {
            self.settle().await?;
        }
        let position = if at_end { self.position() } else { -1 };
        let owed = self.sink.metadata(self.committed) != metadata_before;
        let next = position.max(self.committed);
        if owed || next != self.committed {
            if owed {
                crash::point(self.stats.name(), "committing_metadata");
            }
            self.commit(next).await?;
            if owed {
                crash::point(self.stats.name(), "committed_metadata");
            }
        }
        Ok(())
    }

    /// The consumer's position, or -1 where it has none yet.
    fn position(&self) -> i64 {
        self.partition.position().ok().flatten().unwrap_or(-1)
    }

    /// Learns what is needed to decode the batch.
    async fn prepare(&self, batch: &Chunk) -> Result<(), Abandoned> {
        let mut attempt = 0;
        while let Err(error) = self.placeholders.prepare(batch).await {
            self.endure(error.into(), attempt).await?;
            attempt += 1;
        }
        Ok(())
    }

    /// Delivers the batch, or the front of it before a record that halts, and
    /// dead-letters what was rejected. Returns the offset after what is done.
    async fn deliver(&mut self, batch: &mut Chunk) -> Result<i64, Abandoned> {
        let number = self.partition.number();
        let mut attempt = 0;
        loop {
            self.wait_for_the_others().await?;
            self.wait_for_the_source(batch).await?;
            match self.sink.deliver(batch, attempt).await {
                Ok(mut delivery) => {
                    if delivery.applied > 0 {
                        self.stats.wrote(number);
                    }
                    self.stats.recovered(number);
                    if let Some(cut) = self.judge_shape(batch, &mut delivery).await? {
                        // What is before it is delivered on its own, so that each
                        // record is counted once.
                        self.halt_at(&cut, batch).await;
                        attempt = 0;
                        continue;
                    }
                    if let Some(halt) = delivery.halt.clone()
                        && delivery.taken == 0
                    {
                        self.endure(Fault::Halt(halt), 0).await?;
                        continue;
                    }
                    self.stats.unhalt(number);
                    crash::point(self.stats.name(), "acknowledged");
                    return self.acknowledged(batch, delivery).await;
                }
                Err(fault) => self.endure(fault, attempt).await?,
            }
            attempt += 1;
        }
    }

    /// Decides what becomes of records that are not of the expected shape: where
    /// they halt the sink, says before which.
    async fn judge_shape(
        &mut self,
        batch: &Chunk,
        delivery: &mut Delivery,
    ) -> Result<Option<Cut>, Abandoned> {
        if shape::concerns(delivery) {
            let reconciled = self.reconciled().await?;
            shape::leave_out(delivery, batch, reconciled);
        }
        Ok(self.guard.judge((&*delivery).into()).await)
    }

    /// Halts before this record; the records before it are left in the batch.
    async fn halt_at(&mut self, cut: &Cut, batch: &mut Chunk) {
        let Some(record) = batch.get(cut.index) else {
            return;
        };
        if cut.index == 0 {
            let command = shape::recovery(self.stats.group());
            self.halted = Some(cut.halt(&record.position(), command));
            let (partition, offset) = (record.partition, record.offset);
            self.guard.hold(partition, self.topic, offset).await;
        } else {
            let mut rest = batch.split_off(cut.index);
            // It may have been cut before.
            if let Some(after) = self.rest.take() {
                rest.append(&after);
            }
            self.rest = Some(rest);
        }
    }

    /// Up to where the source has made up for what cannot be read in the log.
    async fn reconciled(&mut self) -> Result<i64, Abandoned> {
        let mut attempt = 0;
        loop {
            match self.sink.reconciled().await {
                Ok(offset) => return Ok(offset),
                Err(fault) => self.endure(fault, attempt).await?,
            }
            attempt += 1;
        }
    }

    /// Where the sink is halted by the shape of the first record, waits until
    /// the source has made up for it: nothing is delivered meanwhile.
    async fn wait_for_the_source(&mut self, batch: &Chunk) -> Result<(), Abandoned> {
        let Some(halt) = self.halted.take() else {
            return Ok(());
        };
        let first = batch.get(0).map_or(0, |record| record.offset);
        loop {
            self.endure(Fault::Halt(halt.clone()), 0).await?;
            let reconciled = self.reconciled().await?;
            if reconciled > first {
                let number = self.partition.number();
                self.guard.goes_on(number, reconciled).await;
                self.stats.unhalt(number);
                return Ok(());
            }
        }
    }

    /// The store has it: dead letters, then the count.
    async fn acknowledged(
        &mut self,
        batch: &mut Chunk,
        delivery: Delivery,
    ) -> Result<i64, Abandoned> {
        let number = self.partition.number();
        let mut attempt = 0;
        let mut unsent = delivery.rejected.clone();
        while let Err(fault) = self.letters.send_all(batch, &mut unsent).await {
            self.endure(fault, attempt).await?;
            attempt += 1;
        }
        if !delivery.rejected.is_empty() {
            crash::point(self.stats.name(), "letters_sent");
        }
        self.stats.unhalt(number);
        self.stats.recovered(number);
        let codes = delivery.rejected.iter().map(|rejected| rejected.code);
        self.stats.add(&Done {
            applied: delivery.applied,
            ignored: delivery.ignored,
            extra_fields: delivery.extra_fields,
            dead_letters: codes.collect(),
        });
        let last = delivery
            .taken
            .checked_sub(1)
            .and_then(|last| batch.get(last));
        let next = last.map_or(-1, |record| record.offset + 1);
        self.done += delivery.taken;
        if delivery.taken >= batch.len() {
            batch.clear();
        } else {
            batch.drop_front(delivery.taken);
        }
        Ok(next)
    }

    /// Has the sink do a bounded part of its pending work. Records and commits
    /// wait for no more than that part: a commit says what is still pending, and
    /// a failure is retried after the next batch.
    async fn settle(&mut self) -> Result<(), Abandoned> {
        let (since, attempt) = self.unsettled.unwrap_or((Instant::now(), 0));
        let number = self.partition.number();
        while Instant::now() >= since {
            self.wait_for_the_others().await?;
            let settled = tokio::select! {
                settled = self.sink.settle() => settled,
                // The next owner of the partition does the rest.
                () = self.ending.stop.cancelled() => return Ok(()),
            };
            match settled {
                Ok(settled) => {
                    self.unsettled = None;
                    self.stats.unhalt(number);
                    self.stats.settled(number, settled);
                    break;
                }
                Err(Fault::Retry { reason, after }) => {
                    let wait = self
                        .patience
                        .retry(&self.stats, number, &reason, after, attempt);
                    self.stats.unsettled(number, &reason);
                    self.unsettled = Some((Instant::now() + wait, attempt + 1));
                    break;
                }
                Err(halt @ Fault::Halt(_)) => self.endure(halt, attempt).await?,
            }
        }
        Ok(())
    }

    async fn commit(&mut self, next: i64) -> Result<(), Abandoned> {
        let drains = self.ending.stop.is_cancelled();
        let step = if drains { "draining" } else { "committing" };
        crash::point(self.stats.name(), step);
        self.send(next).await?;
        crash::point(self.stats.name(), "committed");
        Ok(())
    }

    /// Sends a commit, as often as it takes.
    async fn send(&mut self, next: i64) -> Result<(), Abandoned> {
        let metadata = self.sink.metadata(next);
        let mut attempt = 0;
        loop {
            match self.committer.commit(next, &metadata).await {
                Ok(()) => break,
                Err(error) if is_fenced(&error) => return Err(Abandoned::Fenced),
                Err(error) if is_unanswered(&error) => {
                    let sink = self.stats.name();
                    tracing::warn!(sink, offset = next, "a commit has had no answer");
                    self.ending.again.cancel();
                    return Err(Abandoned::Stopped);
                }
                Err(error) => {
                    let reason = format!("offset {next} is not committed: {error}");
                    self.endure(Fault::retry(reason), attempt).await?;
                }
            }
            attempt += 1;
        }
        let number = self.partition.number();
        let done = std::mem::take(&mut self.done);
        self.stats.passed(done, next - self.committed);
        self.committed = next;
        self.sink.committed(next);
        self.stats.set_caution(number, self.sink.caution());
        self.stats.recovered(number);
        self.stats.committed(number, next);
        self.guard.goes_on(number, next).await;
        Ok(())
    }

    /// A halt of one partition is a halt of the sink: the others hold still.
    async fn wait_for_the_others(&self) -> Result<(), Abandoned> {
        while self.stats.waits_for_another(self.partition.number()) {
            tokio::select! {
                () = sleep(Duration::from_millis(500)) => {}
                () = self.ending.stop.cancelled() => return Err(Abandoned::Stopped),
            }
        }
        Ok(())
    }

    /// Waits as the fault demands, unless told to stop.
    async fn endure(&self, fault: Fault, attempt: u32) -> Result<(), Abandoned> {
        let number = self.partition.number();
        let wait = self.patience.endure(&self.stats, number, fault, attempt);
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = self.ending.stop.cancelled() => Err(Abandoned::Stopped),
        }
    }
}

/// Resolves when the sink has pending work and may be asked to do it.
async fn owed<S: PartitionSink>(sink: &mut S, unsettled: Option<(Instant, u32)>) {
    match unsettled {
        Some((since, _)) => sleep_until(since).await,
        None => sink.owed().await,
    }
}
