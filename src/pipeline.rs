//! The streaming pipeline behind `fanout run`: one worker for each sink, with
//! its own consumer group, its own lag and its own troubles. The log between
//! them is the buffer, so no sink can hold another back.
//!
//! ```text
//! Partition (records) → PartitionSink (decode, write) → dead letters → commit
//! ```
//!
//! What flows back is one number for each partition: how far it is done.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::source::tables::Source;

use crate::{
    connections::Connections,
    kafka::{Limits, Log, TopicSpec},
    runtime::{
        self, Fault, GenerationLog, PipelineError, Reporter, Sink,
        group::GroupWorker,
        partition::Batching,
        shape::ShapeGuard,
        shared::{Shared, log_of, shared, shared_log},
        source::{self, SourceWatch},
        stats::{Phase, SinkStats},
    },
    secret::Redactor,
    sink_kind::{ConsumerGroup, SinkKind},
    sinks::{self, redis::worker},
    source::topics,
    time::clock::now_ms,
};

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    redactor: Redactor,
    project: String,
    started_ms: i64,
    stats: Vec<Arc<SinkStats>>,
    workers: JoinSet<()>,
    stop: CancellationToken,
    shutdown_timeout: Duration,
    source: SourceWatch,
}

/// What a pipeline is started with, besides its clients and their settings.
#[derive(Debug)]
pub struct Start<'a> {
    pub project: &'a str,
    pub sinks: &'a [SinkKind],
    /// Those of the project, of which other processes may drive some.
    pub project_sinks: &'a [SinkKind],
    /// What is known of the source.
    pub source: SourceWatch,
    /// Topics that are not there are made; otherwise they are waited for.
    pub creates_topics: bool,
}

impl Pipeline {
    /// Starts the workers of the sinks. They wait for servers that are not there
    /// yet.
    ///
    /// # Errors
    /// When a setting can never work, whatever the servers do.
    pub fn start(
        start: Start<'_>,
        connections: &Connections,
        stop: CancellationToken,
    ) -> Result<Self, PipelineError> {
        let settings = connections.settings();
        let shared = shared(connections, start.source.clone(), stop.clone())?;
        let mut pipeline = Self {
            project: start.project.to_owned(),
            redactor: settings.redactor().distinctive(),
            started_ms: now_ms(),
            stats: Vec::new(),
            workers: JoinSet::new(),
            stop,
            shutdown_timeout: Duration::from_millis(settings.pipeline.shutdown_timeout_ms),
            source: start.source.clone(),
        };
        if start.creates_topics {
            let creating = create_topics(shared.clone(), topics::specs(settings));
            pipeline.workers.spawn(creating);
        } else {
            let reason = "kafka is not fanout's own, and `fanout up` was not allowed to alter it";
            tracing::warn!(reason, "missing topics are waited for, not made");
        }
        if !start.project_sinks.contains(&SinkKind::ClickHouse) {
            let log = log_of(&shared, &format!("{}-state", shared.group_prefix))?;
            pipeline
                .workers
                .spawn(record_generation(shared.clone(), log));
        }
        for sink in start.sinks {
            match sink {
                SinkKind::Redis => pipeline.start_board(&shared, connections)?,
                SinkKind::ClickHouse => pipeline.start_clickhouse(&shared, connections)?,
                SinkKind::Http => pipeline.start_http(&shared, connections)?,
            }
        }
        let sinks = pipeline.stats.clone();
        let tables = (shared.source.clone(), shared.score);
        let project_sinks = start.project_sinks.to_vec();
        let stop = shared.stop.clone();
        let following = source::follow(start.source, tables, project_sinks, sinks, stop);
        pipeline.workers.spawn(following);
        Ok(pipeline)
    }

    fn start_clickhouse(
        &mut self,
        shared: &Shared,
        connections: &Connections,
    ) -> Result<(), PipelineError> {
        let common = sinks::clickhouse::open(shared, connections)?;
        let settings = connections.settings();
        let batching = Batching {
            limits: Limits {
                records: settings.clickhouse.batch_rows,
                bytes: settings.clickhouse.batch_bytes,
            },
            linger: Duration::from_millis(settings.clickhouse.batch_ms),
        };
        let facts = crate::sinks::clickhouse::Facts::new(Arc::clone(&common));
        let topic = shared.source.facts.topic();
        self.spawn_group(shared, ConsumerGroup::Facts, topic, facts, batching)?;
        let mirror = crate::sinks::clickhouse::ContentMirror::new(common);
        let topic = shared.source.content.topic();
        self.spawn_group(shared, ConsumerGroup::Content, topic, mirror, batching)
    }

    fn start_http(
        &mut self,
        shared: &Shared,
        connections: &Connections,
    ) -> Result<(), PipelineError> {
        let sink = sinks::http::open(shared, connections, &connections.settings().external)?;
        let batching = Batching {
            limits: sinks::http::LIMITS,
            linger: Duration::ZERO,
        };
        let topic = shared.source.facts.topic();
        self.spawn_group(shared, ConsumerGroup::Http, topic, sink, batching)
    }

    fn start_board(
        &mut self,
        shared: &Shared,
        connections: &Connections,
    ) -> Result<(), PipelineError> {
        let group = ConsumerGroup::Board;
        let stats = Arc::new(SinkStats::new(group, shared.source.facts.topic()));
        self.stats.push(Arc::clone(&stats));
        let log = shared_log(shared, group)?;
        let mended = log_of(shared, &runtime::mended_group(&shared.group_prefix, group))?;
        let worker = worker::BoardWorker::new(shared.clone(), connections, log, mended, stats)
            .map_err(|reason| PipelineError::Sink {
                sink: SinkKind::Redis,
                reason,
            })?;
        self.workers.spawn(worker.run());
        Ok(())
    }

    fn spawn_group<S: Sink>(
        &mut self,
        shared: &Shared,
        group: ConsumerGroup,
        topic: String,
        sink: S,
        batching: Batching,
    ) -> Result<(), PipelineError> {
        let stats = Arc::new(SinkStats::new(group, topic.clone()));
        self.stats.push(Arc::clone(&stats));
        let worker = GroupWorker {
            group,
            topic,
            log: shared_log(shared, group)?,
            shared: shared.clone(),
            sink: Arc::new(sink),
            stats,
            guard: Arc::new(ShapeGuard::new(group, shared)),
            batching,
        };
        self.workers.spawn(worker.run());
        Ok(())
    }

    /// What it says of itself, for others to read while it runs.
    pub fn reporter(&self) -> Reporter {
        Reporter {
            redactor: self.redactor.clone(),
            project: self.project.clone(),
            started_ms: self.started_ms,
            stats: self.stats.clone(),
            source: self.source.clone(),
        }
    }

    /// Waits until the token given to [`Self::start`] is cancelled and every
    /// worker has finished what it had in hand, or the shutdown's time is over.
    /// Returns whether all had finished.
    pub async fn finish(mut self) -> bool {
        self.stop.cancelled().await;
        let drained = async { while self.workers.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(self.shutdown_timeout, drained)
            .await
            .is_ok();
        for stats in &self.stats {
            stats.set_phase(Phase::Stopped);
        }
        in_time
    }
}

/// Creates what is missing, as often as it takes.
async fn create_topics(shared: Shared, topics: Vec<TopicSpec>) {
    let mut attempt = 0;
    while let Err(error) = shared.kafka.ensure_topics(&topics).await {
        tracing::warn!(%error, "topics cannot be created yet");
        tokio::select! {
            () = tokio::time::sleep(shared.patience.delay(attempt)) => {}
            () = shared.stop.cancelled() => return,
        }
        attempt += 1;
    }
}

/// Records the first generation of a project none of whose sinks does, as often as
/// it takes: a sink that is added later must not take another incarnation of a
/// topic for the first.
async fn record_generation(shared: Shared, log: Log) {
    let record = GenerationLog::new(shared.state.clone());
    let mut attempt = 0;
    loop {
        let recorded = tokio::select! {
            recorded = record_first(&shared, &record, &log) => recorded,
            () = shared.stop.cancelled() => return,
        };
        let Err(fault) = recorded else { return };
        tracing::debug!(?fault, "the first generation is not recorded yet");
        tokio::select! {
            () = tokio::time::sleep(shared.patience.delay(attempt)) => {}
            () = shared.stop.cancelled() => return,
        }
        attempt += 1;
    }
}

async fn record_first(shared: &Shared, record: &GenerationLog, log: &Log) -> Result<(), Fault> {
    if record.latest().await?.is_some() {
        return Ok(());
    }
    let (facts, content) = (shared.source.facts.topic(), shared.source.content.topic());
    record.begin_first(log, &facts, &content, 1).await?;
    Ok(())
}
