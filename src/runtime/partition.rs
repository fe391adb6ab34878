//! Processes one partition of one sink sequentially: gather, deliver, dead-letter, flush, commit.
//! Each step waits for the previous one, so a crash between steps repeats work but never loses it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Delivery, Fault, Halt, KnownPlaceholders, Noted, Notes, PartitionSink,
    dead_letter::DeadLetters,
    retry::{RetryPolicy, Shutdown},
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

/// Limits at which a batch is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    pub limits: Limits,
    /// Maximum time the first record waits for more records.
    pub linger: Duration,
}

/// State of the loop that processes one partition.
pub struct PartitionLoop<S> {
    pub partition: Partition,
    pub committer: Committer,
    pub sink: S,
    pub batching: Batching,
    pub stats: Arc<SinkStats>,
    pub dead_letters: DeadLetters,
    pub notes: Notes,
    pub placeholders: KnownPlaceholders,
    pub retry_policy: RetryPolicy,
    pub shutdown: Shutdown,
    /// Offset and metadata committed by the group at assignment.
    pub group_commit: Option<(i64, String)>,
    /// Last committed offset. Initially the start offset.
    pub committed: i64,
    /// Number of records processed since the last commit.
    pub processed: usize,
    /// Shared by all partitions of the sink.
    pub guard: Arc<ShapeGuard>,
    /// Identity of the topic.
    pub topic: TopicIdentity,
    /// The halt that blocks the current batch, if any.
    pub halt: Option<Halt>,
    /// Records split off the end of the current batch.
    pub split_off: Option<Chunk>,
    /// Next retry time and number of failures, after a failed flush.
    pub flush_retry: Option<(Instant, u32)>,
}

/// Reason why the loop stopped without completing the current step.
#[derive(Debug)]
enum Abandoned {
    /// Shut down before the step succeeded.
    Stopped,
    /// The partition was revoked.
    Fenced,
    /// The consumer failed.
    Consumer(KafkaError),
}

impl<S: PartitionSink> PartitionLoop<S> {
    /// Runs until shutdown or until the partition is lost.
    pub async fn run(mut self) {
        let number = self.partition.number();
        match self.commit_start_offset().await {
            Ok(()) => self.work().await,
            Err(Abandoned::Fenced) => {
                tracing::info!(sink = self.stats.name(), number, "partition lost");
            }
            Err(_) => {}
        }
        self.guard.release(number);
        self.stats.released(number);
    }

    /// Records the committed offset after a clean shutdown. Gives up after two
    /// seconds, so as not to delay the shutdown.
    async fn record_final_offset(&self) {
        const TIMEOUT: Duration = Duration::from_secs(2);
        let number = self.partition.number();
        let ended = Noted::EndedAt(self.committed);
        let write = self.notes.note_committed(number, self.topic.id, ended);
        if !matches!(timeout(TIMEOUT, write).await, Ok(Ok(()))) {
            let sink = self.stats.name();
            tracing::debug!(sink, number, "cannot record the final offset");
        }
    }

    /// Commits the start offset, unless the same offset and metadata are already committed. Without
    /// this commit, a new group could not be distinguished from a group that lost its offset.
    async fn commit_start_offset(&mut self) -> Result<(), Abandoned> {
        let start = self.committed;
        let number = self.partition.number();
        let degradation = self.sink.degradation();
        if let Some(degradation) = &degradation {
            let (code, reason) = (&degradation.code, &degradation.reason);
            tracing::warn!(sink = self.stats.name(), code, reason, "partition degraded");
        }
        self.stats.set_degradation(number, degradation);
        let commit = (start, self.sink.metadata(start));
        if self.group_commit.as_ref() == Some(&commit) {
            self.stats.committed(number, start);
            return Ok(());
        }
        self.send_commit(start).await
    }

    async fn work(&mut self) {
        let number = self.partition.number();
        let mut batch = Chunk::new(Arc::clone(self.partition.topic()), number);
        let mut has_failed = false;
        loop {
            let step = match self.gather(&mut batch).await {
                Ok(at_end) => {
                    if std::mem::take(&mut has_failed) {
                        self.stats.recovered(number);
                    }
                    self.finish(&mut batch, at_end).await
                }
                Err(error) => Err(Abandoned::Consumer(error)),
            };
            match step {
                Ok(()) if !self.shutdown.stop.is_cancelled() => {}
                Ok(()) => {
                    self.record_final_offset().await;
                    break;
                }
                Err(Abandoned::Stopped) => break,
                Err(Abandoned::Fenced) => {
                    tracing::info!(sink = self.stats.name(), number, "partition lost");
                    break;
                }
                Err(Abandoned::Consumer(error)) if is_out_of_range(&error) => {
                    // The next claim of the partition decides how to handle the gap.
                    tracing::warn!(sink = self.stats.name(), number, "offset out of range");
                    self.shutdown.restart.cancel();
                    break;
                }
                Err(Abandoned::Consumer(error)) => {
                    has_failed = true;
                    // The next iteration checks for shutdown either way.
                    let fault = Fault::retry(format!("kafka: {error}"));
                    let _ = self.wait_after_fault(fault, 0).await;
                }
            }
        }
    }

    /// Fills the batch. Returns true if its last record is the last one in the partition.
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
            if self.shutdown.stop.is_cancelled() {
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
                () = wait_for_flush(&mut self.sink, self.flush_retry), if batch.is_empty() => {
                    return Ok(at_end);
                }
                () = self.shutdown.stop.cancelled() => {}
                () = sleep_until(limit) => {}
            }
        }
    }

    /// Delivers and commits the batch.
    async fn finish(&mut self, batch: &mut Chunk, at_end: bool) -> Result<(), Abandoned> {
        let mut is_flushed = false;
        while !batch.is_empty() {
            crash::point(self.stats.name(), "polled");
            self.prepare(batch).await?;
            let next = self.deliver(batch).await?;
            self.flush().await?;
            if batch.is_empty()
                && let Some(rest) = self.split_off.take()
            {
                *batch = rest;
            }
            is_flushed = true;
            let next = if batch.is_empty() && at_end {
                self.position().max(next)
            } else {
                next
            };
            self.commit(next).await?;
        }
        // New metadata, or a position past the last record, may remain to be committed.
        let metadata_before = self.sink.metadata(self.committed);
        if !is_flushed {
            self.flush().await?;
        }
        let position = if at_end { self.position() } else { -1 };
        let has_new_metadata = self.sink.metadata(self.committed) != metadata_before;
        let next = position.max(self.committed);
        if has_new_metadata || next != self.committed {
            if has_new_metadata {
                crash::point(self.stats.name(), "committing_metadata");
            }
            self.commit(next).await?;
            if has_new_metadata {
                crash::point(self.stats.name(), "committed_metadata");
            }
        }
        Ok(())
    }

    /// Returns the consumer's position, or -1 if it has none yet.
    fn position(&self) -> i64 {
        self.partition.position().ok().flatten().unwrap_or(-1)
    }

    /// Loads the placeholders that are needed to decode the batch.
    async fn prepare(&self, batch: &Chunk) -> Result<(), Abandoned> {
        let mut attempt = 0;
        while let Err(error) = self.placeholders.prepare(batch).await {
            self.wait_after_fault(error.into(), attempt).await?;
            attempt += 1;
        }
        Ok(())
    }

    /// Delivers the batch up to the first record that halts the sink, and dead-letters rejected
    /// records. Returns the offset after the last processed record.
    async fn deliver(&mut self, batch: &mut Chunk) -> Result<i64, Abandoned> {
        let number = self.partition.number();
        let mut attempt = 0;
        loop {
            self.wait_for_turn().await?;
            self.wait_for_reconcile(batch).await?;
            match self.sink.deliver(batch, attempt).await {
                Ok(mut delivery) => {
                    if delivery.applied > 0 {
                        self.stats.wrote(number);
                    }
                    self.stats.recovered(number);
                    if let Some(cut) = self.check_shape(batch, &mut delivery).await? {
                        // Deliver the records before it separately, to count each once.
                        self.halt_at(&cut, batch).await;
                        attempt = 0;
                        continue;
                    }
                    if let Some(halt) = delivery.halt.clone()
                        && delivery.taken == 0
                    {
                        self.wait_after_fault(Fault::Halt(halt), 0).await?;
                        continue;
                    }
                    self.stats.unhalt(number);
                    crash::point(self.stats.name(), "acknowledged");
                    return self.acknowledged(batch, delivery).await;
                }
                Err(fault) => self.wait_after_fault(fault, attempt).await?,
            }
            attempt += 1;
        }
    }

    /// Handles records with an unexpected shape. Returns where the sink halts, if it does.
    async fn check_shape(
        &mut self,
        batch: &Chunk,
        delivery: &mut Delivery,
    ) -> Result<Option<Cut>, Abandoned> {
        if shape::has_mismatch(delivery) {
            let reconciled = self.reconciled().await?;
            shape::ignore_reconciled(delivery, batch, reconciled);
        }
        Ok(self.guard.judge((&*delivery).into()).await)
    }

    /// Halts if the record is the first one, else splits it and all later ones off the batch.
    async fn halt_at(&mut self, cut: &Cut, batch: &mut Chunk) {
        let Some(record) = batch.get(cut.index) else {
            return;
        };
        if cut.index == 0 {
            let command = shape::recovery(self.stats.group());
            self.halt = Some(cut.halt(&record.position(), command));
            let (partition, offset) = (record.partition, record.offset);
            self.guard.hold(partition, self.topic, offset).await;
        } else {
            let mut rest = batch.split_off(cut.index);
            // The batch may have been split before.
            if let Some(later) = self.split_off.take() {
                rest.append(&later);
            }
            self.split_off = Some(rest);
        }
    }

    /// Returns the offset up to which unreadable records were reconciled from the source.
    async fn reconciled(&mut self) -> Result<i64, Abandoned> {
        let mut attempt = 0;
        loop {
            match self.sink.reconciled().await {
                Ok(offset) => return Ok(offset),
                Err(fault) => self.wait_after_fault(fault, attempt).await?,
            }
            attempt += 1;
        }
    }

    /// If the shape of the first record halted the sink, waits until the record is
    /// reconciled from the source. Nothing is delivered in the meantime.
    async fn wait_for_reconcile(&mut self, batch: &Chunk) -> Result<(), Abandoned> {
        let Some(halt) = self.halt.take() else {
            return Ok(());
        };
        let first = batch.get(0).map_or(0, |record| record.offset);
        loop {
            self.wait_after_fault(Fault::Halt(halt.clone()), 0).await?;
            let reconciled = self.reconciled().await?;
            if reconciled > first {
                let number = self.partition.number();
                self.guard.goes_on(number, reconciled).await;
                self.stats.unhalt(number);
                return Ok(());
            }
        }
    }

    /// Sends the dead letters of an acknowledged batch, then counts its records.
    async fn acknowledged(
        &mut self,
        batch: &mut Chunk,
        delivery: Delivery,
    ) -> Result<i64, Abandoned> {
        let number = self.partition.number();
        let mut attempt = 0;
        let mut unsent = delivery.rejected.clone();
        while let Err(fault) = self.dead_letters.send_all(batch, &mut unsent).await {
            self.wait_after_fault(fault, attempt).await?;
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
        self.processed += delivery.taken;
        if delivery.taken >= batch.len() {
            batch.clear();
        } else {
            batch.drop_front(delivery.taken);
        }
        Ok(next)
    }

    /// Does a bounded part of the pending work. Records and commits wait only for this part. The
    /// commit metadata has the rest, and a failed flush is retried after the next batch.
    async fn flush(&mut self) -> Result<(), Abandoned> {
        let (due, attempt) = self.flush_retry.unwrap_or((Instant::now(), 0));
        let number = self.partition.number();
        while Instant::now() >= due {
            self.wait_for_turn().await?;
            let outcome = tokio::select! {
                outcome = self.sink.flush() => outcome,
                // The next owner of the partition does the rest.
                () = self.shutdown.stop.cancelled() => return Ok(()),
            };
            match outcome {
                Ok(outcome) => {
                    self.flush_retry = None;
                    self.stats.unhalt(number);
                    self.stats.flushed(number, outcome);
                    break;
                }
                Err(Fault::Retry { reason, after }) => {
                    let (stats, policy) = (&self.stats, self.retry_policy);
                    let wait = policy.report_retry(stats, number, &reason, after, attempt);
                    self.stats.flush_failed(number, &reason);
                    self.flush_retry = Some((Instant::now() + wait, attempt + 1));
                    break;
                }
                Err(halt @ Fault::Halt(_)) => self.wait_after_fault(halt, attempt).await?,
            }
        }
        Ok(())
    }

    async fn commit(&mut self, next: i64) -> Result<(), Abandoned> {
        let is_final = self.shutdown.stop.is_cancelled();
        let step = if is_final { "draining" } else { "committing" };
        crash::point(self.stats.name(), step);
        self.send_commit(next).await?;
        crash::point(self.stats.name(), "committed");
        Ok(())
    }

    /// Commits `next`, retrying until it succeeds.
    async fn send_commit(&mut self, next: i64) -> Result<(), Abandoned> {
        let metadata = self.sink.metadata(next);
        let mut attempt = 0;
        loop {
            match self.committer.commit(next, &metadata).await {
                Ok(()) => break,
                Err(error) if is_fenced(&error) => return Err(Abandoned::Fenced),
                Err(error) if is_unanswered(&error) => {
                    let sink = self.stats.name();
                    tracing::warn!(sink, offset = next, "commit timed out");
                    self.shutdown.restart.cancel();
                    return Err(Abandoned::Stopped);
                }
                Err(error) => {
                    let reason = format!("cannot commit offset {next}: {error}");
                    self.wait_after_fault(Fault::retry(reason), attempt).await?;
                }
            }
            attempt += 1;
        }
        let number = self.partition.number();
        let processed = std::mem::take(&mut self.processed);
        self.stats.passed(processed, next - self.committed);
        self.committed = next;
        self.sink.committed(next);
        self.stats.set_degradation(number, self.sink.degradation());
        self.stats.recovered(number);
        self.stats.committed(number, next);
        self.guard.goes_on(number, next).await;
        Ok(())
    }

    /// Waits while another partition halts the sink.
    async fn wait_for_turn(&self) -> Result<(), Abandoned> {
        while self.stats.has_to_wait(self.partition.number()) {
            tokio::select! {
                () = sleep(Duration::from_millis(500)) => {}
                () = self.shutdown.stop.cancelled() => return Err(Abandoned::Stopped),
            }
        }
        Ok(())
    }

    /// Reports the fault and waits for the retry delay. Fails on shutdown.
    async fn wait_after_fault(&self, fault: Fault, attempt: u32) -> Result<(), Abandoned> {
        let number = self.partition.number();
        let policy = self.retry_policy;
        let wait = policy.report_fault(&self.stats, number, fault, attempt);
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = self.shutdown.stop.cancelled() => Err(Abandoned::Stopped),
        }
    }
}

/// Waits until pending work is due.
async fn wait_for_flush<S: PartitionSink>(sink: &mut S, flush_retry: Option<(Instant, u32)>) {
    match flush_retry {
        Some((retry_at, _)) => sleep_until(retry_at).await,
        None => sink.pending().await,
    }
}
