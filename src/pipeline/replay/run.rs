//! The replay itself: one sink, one part after the other, each by a reader of
//! its own.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{Bounds, Kept, Part, ReplayError, SILENCE, Tally, Through, Watch};
use crate::{
    chunk::Chunk,
    clients::kafka::{Limits, Partition, Reader, Taken, TopicIdentity, is_out_of_range},
    config::Settings,
    crash,
    pipeline::{
        HTTP_LIMITS, Shared, clickhouse,
        dead_letter::DeadLetters,
        http,
        shape::{self, ShapeGuard},
        shared, shared_log, source,
    },
    sinks::{
        Delivery, Fault, PartitionSink, Rejected, Settled, Sink,
        clickhouse::{ContentMirror, Facts},
    },
};

/// What goes through the sink.
pub(super) enum Work<'w> {
    Parts(&'w mut [Part], &'w mut dyn Watch),
    Kept(&'w [Kept]),
}

/// What was done, and the places of kept records that are still rejected.
pub(super) type Done = (Tally, Vec<(i32, i64)>);

pub(super) async fn run(
    settings: &Settings,
    through: Through,
    work: Work<'_>,
    bounds: &Bounds,
) -> Result<Done, ReplayError> {
    // A replay is bounded: nobody watches the source for it.
    let (_, watch) = source::source();
    let shared = shared(settings, watch, bounds.stop.clone())?;
    let (facts, content) = (shared.source.facts.topic(), shared.source.content.topic());
    let rows = Limits {
        records: settings.clickhouse.batch_rows,
        bytes: settings.clickhouse.batch_bytes,
    };
    match through {
        Through::ClickHouse => {
            let sink = Facts::new(clickhouse(&shared, settings)?);
            let run = Run::new(&shared, "clickhouse", facts, rows, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
        Through::Content => {
            let sink = ContentMirror::new(clickhouse(&shared, settings)?);
            let run = Run::new(&shared, "content", content, rows, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
        Through::Http { include_snapshots } => {
            let mut settings = settings.clone();
            settings.external.include_snapshots |= include_snapshots;
            let sink = http(&shared, &settings)?;
            let run = Run::new(&shared, "http", facts, HTTP_LIMITS, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
    }
}

/// A replay through one sink.
struct Run<'a, S> {
    name: &'static str,
    shared: &'a Shared,
    topic: String,
    limits: Limits,
    bounds: &'a Bounds,
    letters: DeadLetters,
    sink: S,
    guard: ShapeGuard,
    tally: Tally,
}

impl<'a, S: Sink> Run<'a, S> {
    async fn new(
        shared: &'a Shared,
        name: &'static str,
        topic: String,
        limits: Limits,
        bounds: &'a Bounds,
        sink: S,
    ) -> Result<Self, ReplayError> {
        let identity: Option<TopicIdentity> = shared_log(shared, name)?.identity(&topic).await?;
        let identity = identity.ok_or_else(|| ReplayError::Refused {
            reason: format!("topic {topic} does not exist"),
            waited: Duration::ZERO,
        })?;
        let run = Self {
            name,
            letters: DeadLetters::new(shared.producer.clone(), name, identity),
            shared,
            topic,
            limits,
            bounds,
            sink,
            guard: ShapeGuard::new(name, shared),
            tally: Tally::default(),
        };
        let open = async |_| {
            shared.placeholders.load().await?;
            run.sink.open().await
        };
        run.insist(open).await?;
        Ok(run)
    }

    async fn work(mut self, work: Work<'_>) -> Result<Done, ReplayError> {
        let mut rejected = Vec::new();
        match work {
            Work::Parts(parts, watch) => {
                for part in parts.iter_mut().filter(|part| !part.done) {
                    self.part(part, watch).await?;
                }
            }
            Work::Kept(records) => rejected = self.kept(records).await?,
        }
        Ok((self.tally, rejected))
    }

    /// Records of any partition, in any order.
    async fn kept(&mut self, records: &[Kept]) -> Result<Vec<(i32, i64)>, ReplayError> {
        let mut by_partition: BTreeMap<i32, BTreeMap<i64, &Kept>> = BTreeMap::new();
        for record in records {
            let partition = by_partition.entry(record.partition).or_default();
            partition.insert(record.offset, record);
        }
        let mut still_rejected = Vec::new();
        for (number, records) in by_partition {
            let claim = async |_| self.sink.replay(number, None).await;
            let mut sink = self.insist(claim).await?;
            let mut chunk = Chunk::new(Arc::from(self.topic.as_str()), number);
            let mut left = records.into_values().peekable();
            while let Some(record) = left.next() {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                chunk.push(record.offset, record.timestamp_ms, key, value);
                let room = chunk.len() < self.limits.records && chunk.size() < self.limits.bytes;
                if room && left.peek().is_some() {
                    continue;
                }
                let delivery = self.write(&mut sink, &chunk).await?;
                crash::point("dlq", "applied");
                let rejected = delivery.rejected.iter();
                let offsets = rejected.filter_map(|one| Some(chunk.get(one.index)?.offset));
                still_rejected.extend(offsets.map(|offset| (number, offset)));
                chunk.clear();
            }
            self.settle(&mut sink).await?;
        }
        Ok(still_rejected)
    }

    async fn part(&mut self, part: &mut Part, watch: &mut dyn Watch) -> Result<(), ReplayError> {
        let metadata = part.metadata.clone();
        let claim = async |_| self.sink.replay(part.partition, metadata.as_deref()).await;
        let mut sink = self.insist(claim).await?;
        part.metadata
            .get_or_insert_with(|| sink.metadata(part.next));
        let group = self.shared.group("backfill");
        let start = [(part.partition, Some(part.next))];
        let (_reader, mut partitions) =
            Reader::assign_some(&self.shared.consumer, &group, &self.topic, &start)?;
        let Some(mut partition) = partitions.pop() else {
            return Ok(());
        };
        let mut chunk = Chunk::new(Arc::clone(partition.topic()), part.partition);
        while part.next < part.until {
            let gathered = self.gather(&mut partition, &mut chunk, part.until).await;
            let next = gathered.map_err(|error| match error {
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
            let kept = watch.advanced(part, &self.tally);
            kept.map_err(ReplayError::Progress)?;
        }
        self.settle(&mut sink).await?;
        crash::point("backfill", "settled");
        part.done = true;
        let kept = watch.advanced(part, &self.tally);
        kept.map_err(ReplayError::Progress)
    }

    /// Fills the chunk with records before `until`. Returns the offset before
    /// which everything is in it.
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

    /// Delivers the chunk and dead-letters what was not before.
    async fn deliver(
        &mut self,
        sink: &mut S::Partition,
        chunk: &mut Chunk,
        watch: &dyn Watch,
    ) -> Result<(), ReplayError> {
        let mut delivery = self.write(sink, chunk).await?;
        if shape::concerns(&delivery) {
            let reconciled = self.insist(async |_| sink.reconciled().await).await?;
            shape::leave_out(&mut delivery, chunk, reconciled);
        }
        if let Some(cut) = self.guard.judge((&delivery).into()).await {
            let place = chunk.get(cut.index).map(|record| record.place());
            let halt = cut.halt(self.name, &place.unwrap_or_default());
            return Err(ReplayError::Halted(halt));
        }
        crash::point("backfill", "delivered");
        let mut unsent: Vec<Rejected> = delivery.rejected.clone();
        unsent.retain(|rejected| {
            let record = chunk.get(rejected.index);
            record.is_some_and(|record| !watch.is_dead_lettered(record.partition, record.offset))
        });
        let (started, mut attempt) = (Instant::now(), 0);
        while let Err(fault) = self.letters.send_all(chunk, &mut unsent).await {
            self.wait(fault, attempt, started).await?;
            attempt += 1;
        }
        if !delivery.rejected.is_empty() {
            crash::point("backfill", "letters_sent");
        }
        chunk.clear();
        Ok(())
    }

    /// Delivers the chunk until the store has acknowledged all of it.
    async fn write(
        &mut self,
        sink: &mut S::Partition,
        chunk: &Chunk,
    ) -> Result<Delivery, ReplayError> {
        let started = Instant::now();
        let prepare = async |_| Ok(self.shared.placeholders.prepare(chunk).await?);
        self.insist(prepare).await?;
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

    async fn settle(&self, sink: &mut S::Partition) -> Result<(), ReplayError> {
        let (mut since, mut attempt) = (Instant::now(), 0);
        loop {
            match sink.settle().await {
                Ok(Settled::Done) => return Ok(()),
                Ok(Settled::More(what)) => {
                    tracing::debug!(what, "settling");
                    (since, attempt) = (Instant::now(), 0);
                    tokio::select! {
                        () = sink.owed() => {}
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

    /// Asks again and again until it works, is hopeless, or has taken too long.
    async fn insist<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        ask: impl Fn(u32) -> F,
    ) -> Result<T, ReplayError> {
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            match ask(attempt).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => self.wait(fault, attempt, started).await?,
            }
            attempt += 1;
        }
    }

    async fn wait(&self, fault: Fault, attempt: u32, since: Instant) -> Result<(), ReplayError> {
        let (reason, after) = match fault {
            Fault::Halt(halt) => return Err(ReplayError::Halted(halt)),
            Fault::Retry { reason, after } => (reason, after),
        };
        let waited = since.elapsed();
        if waited >= self.bounds.patience {
            return Err(ReplayError::Refused { reason, waited });
        }
        tracing::debug!(reason, attempt, "trying again");
        let pause = after.unwrap_or_else(|| self.shared.patience.delay(attempt));
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.bounds.stop.cancelled() => Err(ReplayError::Stopped),
        }
    }
}
