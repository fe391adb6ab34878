//! Clients and settings shared by all workers of a process: those of a running
//! pipeline and those of a replay.

use tokio_util::sync::CancellationToken;

use super::{
    KnownPlaceholders, Notes, error::PipelineError, retry::RetryPolicy, source::SourceWatch,
};
use crate::{
    config,
    connections::Connections,
    kafka::{Kafka, Log, Producer, StateTopic},
    sink_kind::ConsumerGroup,
    source::tables::Source,
};

/// Clients and settings shared by all workers of the process.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) kafka: Kafka,
    pub(crate) source: Source,
    /// Latest known state of the source, with requests for a new check.
    pub(crate) watch: SourceWatch,
    /// The score of the board.
    pub(crate) score: config::Score,
    pub(crate) group_prefix: String,
    pub(crate) producer: Producer,
    /// State that every worker needs and that must outlive the groups.
    pub(crate) state: StateTopic,
    pub(crate) placeholders: KnownPlaceholders,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Returns the id of a consumer group.
    pub(crate) fn group(&self, group: ConsumerGroup) -> String {
        group.id(&self.group_prefix)
    }

    /// Returns the recorded state of a consumer group.
    pub(crate) fn notes(&self, group: ConsumerGroup) -> Notes {
        Notes::new(self.state.clone(), &self.group(group))
    }
}

/// Creates the clients that the workers share. Does not connect to a server.
///
/// # Errors
/// If a client cannot be created.
pub(crate) fn shared(
    connections: &Connections,
    watch: SourceWatch,
    stop: CancellationToken,
) -> Result<Shared, PipelineError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let client_error = |source| PipelineError::Kafka {
        brokers: kafka.brokers().to_owned(),
        source,
    };
    let producer = kafka.producer(&settings.kafka.dead_letter_topic);
    let producer = producer.map_err(client_error)?;
    let source = Source::new(&settings.kafka.topic_prefix);
    let group_prefix = settings.kafka.group_prefix.clone();
    let group = format!("{group_prefix}-state");
    let state = kafka.state(&group, &settings.kafka.state_topic);
    let state = state.map_err(client_error)?;
    let log = kafka.log(&group).map_err(client_error)?;
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
        retry_policy: RetryPolicy::new(&settings.pipeline),
        stop,
    })
}

/// Returns the log as seen by a consumer group.
pub(crate) fn shared_log(shared: &Shared, group: ConsumerGroup) -> Result<Log, PipelineError> {
    log_of(shared, &shared.group(group))
}

/// Returns the log as seen by the group with this id.
pub(crate) fn log_of(shared: &Shared, group: &str) -> Result<Log, PipelineError> {
    shared
        .kafka
        .log(group)
        .map_err(|source| PipelineError::Kafka {
            brokers: shared.kafka.brokers().to_owned(),
            source,
        })
}
