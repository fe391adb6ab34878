//! What all workers of a process share: those of a pipeline that runs, and those
//! of a replay.

use tokio_util::sync::CancellationToken;

use super::{KnownPlaceholders, Notes, error::PipelineError, retry::Patience, source::SourceWatch};
use crate::{
    config,
    connections::Connections,
    kafka::{Kafka, Log, Producer, StateTopic},
    sink_kind::ConsumerGroup,
    source::tables::Source,
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
pub(crate) fn shared(
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

/// A group's own view of the log.
pub(crate) fn shared_log(shared: &Shared, group: ConsumerGroup) -> Result<Log, PipelineError> {
    log_of(shared, &shared.group(group))
}

/// The log as the group of this id reads it.
pub(crate) fn log_of(shared: &Shared, group: &str) -> Result<Log, PipelineError> {
    shared
        .kafka
        .log(group)
        .map_err(|source| PipelineError::Kafka {
            brokers: shared.kafka.brokers().to_owned(),
            source,
        })
}
