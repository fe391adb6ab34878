//! What all workers of the process share, and the sinks that are made from it:
//! for a pipeline that runs as for a replay.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{error::PipelineError, patience::Patience, source::SourceWatch, tables::Source};
use crate::{
    clients::{
        Connections,
        kafka::{Kafka, Limits, Log, Producer, StateTopic},
    },
    config,
    event::FactDecoder,
    sink_kind::{ConsumerGroup, SinkKind},
    sinks::{self, GenerationLog, KnownPlaceholders, Notes},
};

/// What a batch for the external system holds at most: what a crash may send
/// again.
pub(super) const HTTP_LIMITS: Limits = Limits {
    records: 512,
    bytes: 64 * 1024 * 1024,
};

/// What all workers of the process share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) kafka: Kafka,
    pub(crate) source: Source,
    /// What is known of the source, and can be asked of it.
    pub(crate) watch: SourceWatch,
    /// What the board counts.
    pub(crate) score: config::Score,
    pub(crate) group_prefix: String,
    pub(crate) producer: Producer,
    /// What every worker has to know and no group may forget.
    pub(crate) state: StateTopic,
    pub(crate) placeholders: KnownPlaceholders,
    pub(crate) patience: Patience,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// The id of a consumer group.
    pub(crate) fn group(&self, group: ConsumerGroup) -> String {
        group.id(&self.group_prefix)
    }

    /// What is noted of it.
    pub(crate) fn notes(&self, group: ConsumerGroup) -> Notes {
        Notes::new(self.state.clone(), &self.group(group))
    }
}

/// Makes the clients that the workers share.
///
/// # Errors
/// When a client cannot be made, whatever the servers do.
pub(super) fn shared(
    connections: &Connections,
    watch: SourceWatch,
    stop: CancellationToken,
) -> Result<Shared, PipelineError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let unmade = |source| PipelineError::Kafka {
        brokers: kafka.brokers().to_owned(),
        source,
    };
    let producer = kafka.producer(&settings.kafka.dead_letter_topic);
    let producer = producer.map_err(unmade)?;
    let source = Source::new(&settings.kafka.topic_prefix);
    let group_prefix = settings.kafka.group_prefix.clone();
    let group = format!("{group_prefix}-state");
    let state = kafka.state(&group, &settings.kafka.state_topic);
    let state = state.map_err(unmade)?;
    let log = kafka.log(&group).map_err(unmade)?;
    let placeholders = KnownPlaceholders::new(state.clone(), log, &source.facts, &source.content);
    Ok(Shared {
        kafka: kafka.clone(),
        source,
        watch,
        score: settings.board.score,
        group_prefix,
        producer,
        state,
        placeholders,
        patience: Patience::new(&settings.pipeline),
        stop,
    })
}

/// What the sinks into ClickHouse share.
pub(super) fn clickhouse(
    shared: &Shared,
    connections: &Connections,
) -> Result<Arc<sinks::clickhouse::Common>, PipelineError> {
    let common = sinks::clickhouse::Common::new(
        connections,
        (&shared.source.facts, &shared.source.content),
        &shared.placeholders,
        (
            shared_log(shared, ConsumerGroup::Facts)?,
            GenerationLog::new(shared.state.clone()),
        ),
    );
    let common = common.map_err(|error| PipelineError::Sink {
        sink: SinkKind::ClickHouse,
        reason: error.to_string(),
    })?;
    Ok(Arc::new(common))
}

/// The sink into the external system.
pub(super) fn http(
    shared: &Shared,
    connections: &Connections,
    settings: &config::External,
) -> Result<sinks::http::Http, PipelineError> {
    let group = ConsumerGroup::Http;
    let log = shared_log(shared, group)?;
    let mended = sinks::mended_group(&shared.group_prefix, group);
    let lives = sinks::lives_group(&shared.group_prefix, group);
    let earlier = sinks::http::EarlierNotes {
        mended: log_of(shared, &mended)?,
        lives: log_of(shared, &lives)?,
        dead_letters: connections.settings().kafka.dead_letter_topic.clone(),
    };
    let (topic, notes) = (shared.source.facts.topic(), shared.notes(group));
    let history = sinks::http::History::new(topic, log, notes, earlier);
    let decoder =
        FactDecoder::with_placeholders(shared.source.facts.clone(), shared.placeholders.facts());
    let sink = sinks::http::Http::new(settings, &connections.external, decoder, history);
    sink.map_err(|error| PipelineError::Sink {
        sink: SinkKind::Http,
        reason: error.to_string(),
    })
}

/// A group's own view of the log.
pub(super) fn shared_log(shared: &Shared, group: ConsumerGroup) -> Result<Log, PipelineError> {
    log_of(shared, &shared.group(group))
}

/// The log as the group of this id reads it.
pub(super) fn log_of(shared: &Shared, group: &str) -> Result<Log, PipelineError> {
    shared
        .kafka
        .log(group)
        .map_err(|source| PipelineError::Kafka {
            brokers: shared.kafka.brokers().to_owned(),
            source,
        })
}
