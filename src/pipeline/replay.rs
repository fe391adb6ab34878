//! Stretches of the log through a sink once more, beside the live pipeline and
//! by an assignment of their own: nothing is committed, and what is written
//! carries the positions it had the first time, so that repeating is harmless.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    HTTP_LIMITS, PipelineError, Shared, clickhouse, dead_letter::DeadLetters, http, shared,
    shared_log,
};
use crate::{
    chunk::Chunk,
    clients::kafka::{KafkaError, Limits, Partition, Reader, Taken, TopicIdentity},
    config::Settings,
    failure::{Failure, Kind},
    sinks::{
        Delivery, Fault, Halt, PartitionSink, Rejected, Sink,
        clickhouse::{ContentMirror, Facts},
    },
};

/// How long the broker may have nothing to give before the end is reached.
const SILENCE: Duration = Duration::from_secs(30);

/// One partition's part of a replay. Plain data that outlives a run: whoever
/// goes on with a replay hands back what it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset.
    pub until: i64,
    /// Everything before this is stored.
    pub next: i64,
    /// How far what is stored was enriched when the part was begun.
    pub metadata: Option<String>,
    /// All of it is stored, and nothing is owed.
    pub done: bool,
}

impl Part {
    /// A part that has not begun.
    #[must_use]
    pub fn new(partition: i32, from: i64, until: i64) -> Self {
        Self {
            partition,
            from,
            until,
            next: from,
            metadata: None,
            done: from >= until,
        }
    }

    /// Offsets in it: at least as many as there are records.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of those, how many are behind it.
    #[must_use]
    pub fn passed(&self) -> u64 {
        u64::try_from(self.next.min(self.until) - self.from).unwrap_or(0)
    }
}

/// What a replay has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub ignored: BTreeMap<String, u64>,
    /// By code.
    pub rejected: BTreeMap<String, u64>,
}

/// Through what the records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The enriched rows.
    ClickHouse,
    /// The copy of the catalogue.
    Content,
    Http {
        /// Also tell of rows that only a snapshot has shown.
        include_snapshots: bool,
    },
}

/// Why a replay ends early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error("the log cannot be read")]
    Kafka(#[from] KafkaError),
    #[error("the log says nothing for {}s", SILENCE.as_secs())]
    Silent,
    #[error("{}", .0.reason)]
    Halted(Halt),
    #[error("given up after {}s of trying: {reason}", waited.as_secs())]
    Refused { reason: String, waited: Duration },
    #[error("how far it is cannot be kept")]
    Progress(#[source] std::io::Error),
    #[error("stopped; run it again, and it goes on")]
    Stopped,
}

impl Failure for ReplayError {
    fn kind(&self) -> Kind {
        match self {
            Self::Pipeline(error) => error.kind(),
            Self::Kafka(_) | Self::Progress(_) => Kind::Environment,
            Self::Halted(_) => Kind::Failed,
            Self::Silent | Self::Refused { .. } => Kind::NotReady,
            Self::Stopped => Kind::Interrupted(2),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Pipeline(error) => error.code(),
            Self::Kafka(_) => "kafka",
            Self::Silent => "log_silent",
            Self::Halted(_) => "sink_halted",
            Self::Refused { .. } => "sink_refuses",
            Self::Progress(_) => "state_unreachable",
            Self::Stopped => "stopped",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Pipeline(error) => error.hint(),
            Self::Halted(halt) => Some(halt.remedy.clone()),
            Self::Kafka(_) | Self::Silent | Self::Refused { .. } => {
                Some("fanout status".to_owned())
            }
            Self::Progress(_) | Self::Stopped => None,
        }
    }
}

/// Told after each batch, and when a part is done.
pub trait Watch: Send {
    /// What has been stored of a part. An error ends the replay.
    fn advanced(&mut self, part: &Part, tally: &Tally) -> std::io::Result<()>;

    /// Whether a record is among the dead letters already.
    fn is_dead_lettered(&self, partition: i32, offset: i64) -> bool;
}

/// What bounds a replay besides its parts.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long a sink may refuse without a success.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// Replays the parts that are not done, one after the other.
///
/// # Errors
/// When the sink halts or refuses for too long, or the log cannot be read.
/// What was stored by then has been told to `watch`.
pub async fn replay(
    settings: &Settings,
    through: Through,
    parts: &mut [Part],
    bounds: &Bounds,
    watch: &mut dyn Watch,
) -> Result<Tally, ReplayError> {
    let work = Work::Parts(parts, watch);
    Ok(run(settings, through, work, bounds).await?.0)
}

/// A record by its bytes and its place, wherever it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Applies records at the places they had. Returns what became of them, and
/// the places of those that the sink still rejects.
///
/// # Errors
/// When the sink halts or refuses for too long.
pub async fn apply(
    settings: &Settings,
    through: Through,
    records: &[Kept],
    bounds: &Bounds,
) -> Result<Done, ReplayError> {
    run(settings, through, Work::Kept(records), bounds).await
}

/// What goes through the sink.
enum Work<'w> {
    Parts(&'w mut [Part], &'w mut dyn Watch),
    Kept(&'w [Kept]),
}

/// What was done, and the places of kept records that are still rejected.
type Done = (Tally, Vec<(i32, i64)>);

async fn run(
    settings: &Settings,
    through: Through,
    work: Work<'_>,
    bounds: &Bounds,
) -> Result<Done, ReplayError> {
    let shared = shared(settings, bounds.stop.clone())?;
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
            let mut external = settings.external.clone();
            external.include_snapshots |= include_snapshots;
            let sink = http(&shared, &external)?;
            let run = Run::new(&shared, "http", facts, HTTP_LIMITS, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
    }
}

/// A replay through one sink.
struct Run<'a, S> {
    shared: &'a Shared,
    topic: String,
    limits: Limits,
    bounds: &'a Bounds,
    letters: DeadLetters,
    sink: S,
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
            letters: DeadLetters::new(shared.producer.clone(), name, identity),
            shared,
            topic,
            limits,
            bounds,
            sink,
            tally: Tally::default(),
        };
        run.insist(async |_| run.sink.open().await).await?;
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
        part.metadata.get_or_insert_with(|| sink.metadata());
        let group = self.shared.group("backfill");
        let start = [(part.partition, Some(part.next))];
        let (_reader, mut partitions) =
            Reader::assign_some(&self.shared.consumer, &group, &self.topic, &start)?;
        let Some(mut partition) = partitions.pop() else {
            return Ok(());
        };
        let mut chunk = Chunk::new(Arc::clone(partition.topic()), part.partition);
        while part.next < part.until {
            let next = self.gather(&mut partition, &mut chunk, part.until).await?;
            if !chunk.is_empty() {
                self.deliver(&mut sink, &mut chunk, watch).await?;
            }
            part.next = part.next.max(next);
            let kept = watch.advanced(part, &self.tally);
            kept.map_err(ReplayError::Progress)?;
        }
        self.settle(&mut sink).await?;
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
        let delivery = self.write(sink, chunk).await?;
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
        let started = Instant::now();
        let mut attempt = 0;
        while let Err(fault) = sink.settle().await {
            self.wait(fault, attempt, started).await?;
            attempt += 1;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_is_done_before_it_begins() {
        assert!(Part::new(0, 7, 7).done);
        let mut part = Part::new(0, 3, 10);
        assert_eq!((part.done, part.len(), part.passed()), (false, 7, 0));
        // A position past the end is that of a transaction's marker.
        part.next = 12;
        assert_eq!(part.passed(), 7);
    }

    #[test]
    fn what_a_part_is_kept_as_stays_the_same_for_ever() {
        let part = Part::new(1, 2, 9);
        let text = serde_json::to_string(&part).expect("plain data");
        assert_eq!(
            text,
            r#"{"partition":1,"from":2,"until":9,"next":2,"metadata":null,"done":false}"#
        );
    }
}
