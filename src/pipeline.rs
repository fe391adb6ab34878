//! The streaming pipeline behind `fanout run`. Each sink has a worker with a separate
//! consumer group, lag and error handling. The log is the buffer between them, so no
//! sink can delay another.
//!
//! ```text
//! Partition (records) → PartitionSink (decode, write) → dead letters → commit
//! ```
//!
//! The only feedback is the committed offset of each partition.

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

/// Options of a pipeline, besides its clients and their settings.
#[derive(Debug)]
pub struct Start<'a> {
    pub project: &'a str,
    pub sinks: &'a [SinkKind],
    /// All sinks of the project. Other processes may run some of them.
    pub project_sinks: &'a [SinkKind],
    /// Latest known state of the source.
    pub source: SourceWatch,
    /// Whether to create missing topics. Otherwise the pipeline waits for them.
    pub creates_topics: bool,
}

impl Pipeline {
    /// Starts the workers of the sinks. They wait for servers that are not reachable
    /// yet.
    ///
    /// # Errors
    /// If a setting is invalid, whatever the state of the servers.
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
            let task = create_topics(shared.clone(), topics::specs(settings));
            pipeline.workers.spawn(task);
        } else {
            let reason = "kafka is external, and `fanout up` was not allowed to change it";
            tracing::warn!(
                reason,
                "waiting for missing topics instead of creating them"
            );
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
        let task = source::follow(start.source, tables, project_sinks, sinks, stop);
        pipeline.workers.spawn(task);
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
        let mended_log = log_of(shared, &runtime::mended_group(&shared.group_prefix, group))?;
        let worker = worker::BoardWorker::new(shared.clone(), connections, log, mended_log, stats)
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

    /// Returns a reporter of the status of this pipeline.
    pub fn reporter(&self) -> Reporter {
        Reporter {
            redactor: self.redactor.clone(),
            project: self.project.clone(),
            started_ms: self.started_ms,
            stats: self.stats.clone(),
            source: self.source.clone(),
        }
    }

    /// Waits until the token given to [`Self::start`] is cancelled, and then until
    /// every worker has drained or the shutdown times out. Returns true if all workers
    /// have drained.
    pub async fn finish(mut self) -> bool {
        self.stop.cancelled().await;
        let drained = async { while self.workers.join_next().await.is_some() {} };
        let is_drained = tokio::time::timeout(self.shutdown_timeout, drained)
            .await
            .is_ok();
        for stats in &self.stats {
            stats.set_phase(Phase::Stopped);
        }
        is_drained
    }
}

/// Creates missing topics, retrying until it succeeds.
async fn create_topics(shared: Shared, topics: Vec<TopicSpec>) {
    let mut attempt = 0;
    while let Err(error) = shared.kafka.ensure_topics(&topics).await {
        tracing::warn!(%error, "topics cannot be created yet");
        tokio::select! {
            () = tokio::time::sleep(shared.retry_policy.delay(attempt)) => {}
            () = shared.stop.cancelled() => return,
        }
        attempt += 1;
    }
}

/// Records the first generation of a project without ClickHouse, retrying until it
/// succeeds. Otherwise a sink that is added later could mistake another incarnation of
/// a topic for the first one.
async fn record_generation(shared: Shared, log: Log) {
    let generations = GenerationLog::new(shared.state.clone());
    let mut attempt = 0;
    loop {
        let result = tokio::select! {
            result = record_first(&shared, &generations, &log) => result,
            () = shared.stop.cancelled() => return,
        };
        let Err(fault) = result else { return };
        tracing::debug!(?fault, "cannot record the first generation yet");
        tokio::select! {
            () = tokio::time::sleep(shared.retry_policy.delay(attempt)) => {}
            () = shared.stop.cancelled() => return,
        }
        attempt += 1;
    }
}

async fn record_first(
    shared: &Shared,
    generations: &GenerationLog,
    log: &Log,
) -> Result<(), Fault> {
    if generations.latest().await?.is_some() {
        return Ok(());
    }
    let (facts, content) = (shared.source.facts.topic(), shared.source.content.topic());
    generations.begin_first(log, &facts, &content, 1).await?;
    Ok(())
}
