//! Runs a replay through one sink, one part after the other, each with a separate
//! reader.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::Future,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    error::{ReplayError, SILENCE},
    part::Part,
    work::{Batches, Bounds, ReplayRecord, Tally, Watch},
};
use crate::{
    crash,
    kafka::{Limits, Partition, Taken, TopicIdentity, chunk::Chunk, is_out_of_range},
    runtime::{
        Delivery, Fault, FlushOutcome, PartitionSink, Rejected, Sink,
        dead_letter::DeadLetters,
        shape::{self, ShapeGuard},
        shared::{Shared, shared_log},
    },
    sink_kind::ConsumerGroup,
};

/// Input of a replay.
pub(crate) trait Work {
    /// Replays the input.
    fn through<S: Sink>(
        self,
        run: &mut Run<'_, S>,
    ) -> impl Future<Output = Result<(), ReplayError>> + Send;
}

/// Input that is read from the log.
pub(crate) struct Parts<'w>(pub &'w mut [Part], pub &'w mut dyn Watch);

/// Input that is read from a place other than the log.
pub(crate) struct Kepts<'w, B>(pub &'w mut B);

impl Work for Parts<'_> {
    async fn through<S: Sink>(self, run: &mut Run<'_, S>) -> Result<(), ReplayError> {
        let Self(parts, watch) = self;
        for part in parts.iter_mut().filter(|part| !part.done) {
            run.replay_part(part, watch).await?;
        }
        Ok(())
    }
}

impl<B: Batches> Work for Kepts<'_, B> {
    async fn through<S: Sink>(self, run: &mut Run<'_, S>) -> Result<(), ReplayError> {
        run.replay_batches(self.0).await
    }
}

/// A replay through one sink.
pub(crate) struct Run<'a, S> {
    group: ConsumerGroup,
    shared: &'a Shared,
    topic: String,
    limits: Limits,
    bounds: &'a Bounds,
    dead_letters: DeadLetters,
    sink: S,
    guard: ShapeGuard,
    tally: Tally,
}

impl<'a, S: Sink> Run<'a, S> {
    pub(crate) async fn new(
        shared: &'a Shared,
        group: ConsumerGroup,
        topic: String,
        limits: Limits,
        bounds: &'a Bounds,
        sink: S,
    ) -> Result<Self, ReplayError> {
        let identity: Option<TopicIdentity> = shared_log(shared, group)?.identity(&topic).await?;
        let identity = identity.ok_or_else(|| ReplayError::Refused {
            reason: format!("topic {topic} does not exist"),
            waited: Duration::ZERO,
        })?;
        let run = Self {
            group,
            dead_letters: DeadLetters::new(shared.producer.clone(), group, identity),
            shared,
            topic,
            limits,
            bounds,
            sink,
            guard: ShapeGuard::new(group, shared),
            tally: Tally::default(),
        };
        let open = async |_| {
            shared.placeholders.load().await?;
            run.sink.open().await
        };
        run.retry(open).await?;
        Ok(run)
    }

    pub(crate) async fn work(mut self, work: impl Work) -> Result<Tally, ReplayError> {
        work.through(&mut self).await?;
        Ok(self.tally)
    }

    /// Replays records of any partition, in any order.
    async fn replay_batches(&mut self, batches: &mut impl Batches) -> Result<(), ReplayError> {
        let mut sinks: BTreeMap<i32, S::Partition> = BTreeMap::new();
        while let Some(batch) = batches.next().await? {
            let mut partitions: BTreeMap<i32, BTreeMap<i64, ReplayRecord>> = BTreeMap::new();
            for record in batch {
                let partition = partitions.entry(record.partition).or_default();
                partition.insert(record.offset, record);
            }
            for (number, records) in partitions {
                if self.bounds.stop.is_cancelled() {
                    return Err(ReplayError::Stopped);
                }
                let sink = match sinks.entry(number) {
                    Entry::Occupied(sink) => sink.into_mut(),
                    Entry::Vacant(entry) => {
                        let claim = async |_| self.sink.replay(number, None).await;
                        entry.insert(self.retry(claim).await?)
                    }
                };
                let records: Vec<ReplayRecord> = records.into_values().collect();
                self.replay_records(sink, &records, batches).await?;
            }
        }
        for sink in sinks.values_mut() {
            self.flush(sink).await?;
        }
        Ok(())
    }

    /// Replays records of one partition, ordered by offset.
    async fn replay_records(
        &mut self,
        sink: &mut S::Partition,
        records: &[ReplayRecord],
        batches: &mut impl Batches,
    ) -> Result<(), ReplayError> {
        let number = records.first().map_or(0, |record| record.partition);
        let mut chunk = Chunk::new(Arc::from(self.topic.as_str()), number);
        let (mut first, mut last) = (0, 0);
        for record in records {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            chunk.push(record.offset, record.timestamp_ms, key, value);
            last += 1;
            let has_room = chunk.len() < self.limits.records && chunk.size() < self.limits.bytes;
            if has_room && last < records.len() {
                continue;
            }
            let delivery = self.write(sink, &chunk).await?;
            crash::point("dlq", "applied");
            for rejected in &delivery.rejected {
                if let Some(record) = records.get(first + rejected.index) {
                    batches.rejected(record.id);
                }
            }
            chunk.clear();
            first = last;
        }
        Ok(())
    }

    /// Replays one part of the log.
    async fn replay_part(
        &mut self,
        part: &mut Part,
        watch: &mut dyn Watch,
    ) -> Result<(), ReplayError> {
        let metadata = part.metadata.clone();
        let claim = async |_| self.sink.replay(part.partition, metadata.as_deref()).await;
        let mut sink = self.retry(claim).await?;
        part.metadata
            .get_or_insert_with(|| sink.metadata(part.next));
        let reader = format!("{}-backfill", self.shared.group_prefix);
        let start = [(part.partition, Some(part.next))];
        let assigned = self
            .shared
            .kafka
            .partition_reader(&reader, &self.topic, &start);
        let (_reader, mut partitions) = assigned?;
        let Some(mut partition) = partitions.pop() else {
            return Ok(());
        };
        let mut chunk = Chunk::new(Arc::clone(partition.topic()), part.partition);
        while part.next < part.until {
            let result = self.gather(&mut partition, &mut chunk, part.until).await;
            let next = result.map_err(|error| match error {
                ReplayError::Kafka(error) if is_out_of_range(&error) => ReplayError::Gone {
                    partition: part.partition,
                    next: part.next,
                },
                error => error,
            })?;
            if !chunk.is_empty() {
                self.deliver(&mut sink, &mut chunk, watch).await?;
            }
            part.next = part.next.max(next);
            let saved = watch.advanced(part, &self.tally);
            saved.map_err(ReplayError::Progress)?;
        }
        self.flush(&mut sink).await?;
        crash::point("backfill", "settled");
        part.done = true;
        let saved = watch.advanced(part, &self.tally);
        saved.map_err(ReplayError::Progress)
    }

    /// Fills the chunk with records before `until`. Returns the next offset: all
    /// earlier records are in the chunk or before it.
    async fn gather(
        &self,
        partition: &mut Partition,
        chunk: &mut Chunk,
        until: i64,
    ) -> Result<i64, ReplayError> {
        loop {
            if self.bounds.stop.is_cancelled() {
                return Err(ReplayError::Stopped);
            }
            let taken = partition.take(chunk, self.limits)?;
            if chunk.keep_before(until) {
                return Ok(until);
            }
            if taken == Taken::End {
                let position = partition.position()?;
                return Ok(position.max(chunk.next_offset()).unwrap_or(until));
            }
            if let Some(next) = chunk.next_offset() {
                return Ok(next);
            }
            tokio::select! {
                arrived = timeout(SILENCE, partition.arrived()) => {
                    arrived.map_err(|_| ReplayError::Silent)?;
                }
                () = self.bounds.stop.cancelled() => {}
            }
        }
    }

    /// Delivers the chunk. Dead-letters rejected records that are not already
    /// dead-lettered.
    async fn deliver(
        &mut self,
        sink: &mut S::Partition,
        chunk: &mut Chunk,
        watch: &dyn Watch,
    ) -> Result<(), ReplayError> {
        let mut delivery = self.write(sink, chunk).await?;
        if shape::has_mismatch(&delivery) {
            let reconciled = self.retry(async |_| sink.reconciled().await).await?;
            shape::ignore_reconciled(&mut delivery, chunk, reconciled);
        }
        if let Some(cut) = self.guard.judge((&delivery).into()).await {
            let position = chunk.get(cut.index).map(|record| record.position());
            let halt = cut.halt(&position.unwrap_or_default(), shape::recovery(self.group));
            return Err(ReplayError::Halted(halt));
        }
        crash::point("backfill", "delivered");
        let mut unsent: Vec<Rejected> = delivery.rejected.clone();
        let mut lookup = Ok(());
        unsent.retain(|rejected| {
            let record = chunk.get(rejected.index);
            record.is_some_and(|record| {
                let is_dead_lettered = watch.is_dead_lettered(record.partition, record.offset);
                !is_dead_lettered.unwrap_or_else(|error| {
                    lookup = Err(error);
                    true
                })
            })
        });
        lookup.map_err(ReplayError::Disk)?;
        let (started, mut attempt) = (Instant::now(), 0);
        while let Err(fault) = self.dead_letters.send_all(chunk, &mut unsent).await {
            self.wait(fault, attempt, started).await?;
            attempt += 1;
        }
        if !delivery.rejected.is_empty() {
            crash::point("backfill", "letters_sent");
        }
        chunk.clear();
        Ok(())
    }

    /// Delivers the chunk, retrying until the store has acknowledged all of it.
    async fn write(
        &mut self,
        sink: &mut S::Partition,
        chunk: &Chunk,
    ) -> Result<Delivery, ReplayError> {
        let started = Instant::now();
        let prepare = async |_| Ok(self.shared.placeholders.prepare(chunk).await?);
        self.retry(prepare).await?;
        let mut attempt = 0;
        loop {
            match sink.deliver(chunk, attempt).await {
                Ok(mut delivery) => {
                    self.count(&delivery);
                    return match delivery.halt.take() {
                        Some(halt) => Err(ReplayError::Halted(halt)),
                        None => Ok(delivery),
                    };
                }
                Err(fault) => self.wait(fault, attempt, started).await?,
            }
            attempt += 1;
        }
    }

    fn count(&mut self, delivery: &Delivery) {
        self.tally.applied += delivery.applied;
        for (reason, count) in &delivery.ignored {
            *self.tally.ignored.entry((*reason).to_owned()).or_default() += count;
        }
        for rejected in &delivery.rejected {
            let code = rejected.code.to_owned();
            *self.tally.rejected.entry(code).or_default() += 1;
        }
    }

    /// Flushes all pending work of the sink.
    async fn flush(&self, sink: &mut S::Partition) -> Result<(), ReplayError> {
        let (mut since, mut attempt) = (Instant::now(), 0);
        loop {
            match sink.flush().await {
                Ok(FlushOutcome::Done) => return Ok(()),
                Ok(FlushOutcome::More(remaining)) => {
                    tracing::debug!(remaining, "flushing");
                    (since, attempt) = (Instant::now(), 0);
                    tokio::select! {
                        () = sink.pending() => {}
                        () = self.bounds.stop.cancelled() => return Err(ReplayError::Stopped),
                    }
                }
                Err(fault) => {
                    self.wait(fault, attempt, since).await?;
                    attempt += 1;
                }
            }
        }
    }

    /// Retries an operation until it succeeds, halts, or takes too long.
    async fn retry<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        operation: impl Fn(u32) -> F,
    ) -> Result<T, ReplayError> {
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            match operation(attempt).await {
                Ok(value) => return Ok(value),
                Err(fault) => self.wait(fault, attempt, started).await?,
            }
            attempt += 1;
        }
    }

    /// Waits for the retry delay. Fails after a halt, a timeout or a stop request.
    async fn wait(&self, fault: Fault, attempt: u32, since: Instant) -> Result<(), ReplayError> {
        let (reason, after) = match fault {
            Fault::Halt(halt) => return Err(ReplayError::Halted(halt)),
            Fault::Retry { reason, after } => (reason, after),
        };
        let waited = since.elapsed();
        if waited >= self.bounds.patience {
            return Err(ReplayError::Refused { reason, waited });
        }
        tracing::debug!(reason, attempt, "retrying");
        let pause = after.unwrap_or_else(|| self.shared.retry_policy.delay(attempt));
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.bounds.stop.cancelled() => Err(ReplayError::Stopped),
        }
    }
}
