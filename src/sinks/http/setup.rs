//! The sink as a worker and a replay open it.

use super::{EarlierNotes, History, Http};
use crate::{
    config,
    connections::Connections,
    debezium::FactDecoder,
    kafka::Limits,
    runtime::{
        error::PipelineError,
        lives_group, mended_group,
        shared::{Shared, log_of, shared_log},
    },
    sink_kind::{ConsumerGroup, SinkKind},
};

/// What a batch for the external system holds at most: what a crash may send
/// again.
pub(crate) const LIMITS: Limits = Limits {
    records: 512,
    bytes: 64 * 1024 * 1024,
};

/// The sink into the external system.
pub(crate) fn open(
    shared: &Shared,
    connections: &Connections,
    settings: &config::External,
) -> Result<Http, PipelineError> {
    let group = ConsumerGroup::Http;
    let log = shared_log(shared, group)?;
    let mended = mended_group(&shared.group_prefix, group);
    let lives = lives_group(&shared.group_prefix, group);
    let earlier = EarlierNotes {
        mended: log_of(shared, &mended)?,
        lives: log_of(shared, &lives)?,
        dead_letters: connections.settings().kafka.dead_letter_topic.clone(),
    };
    let (topic, notes) = (shared.source.facts.topic(), shared.notes(group));
    let history = History::new(topic, log, notes, earlier);
    let decoder =
        FactDecoder::with_placeholders(shared.source.facts.clone(), shared.placeholders.facts());
    let sink = Http::new(settings, &connections.external, decoder, history);
    sink.map_err(|error| PipelineError::Sink {
        sink: SinkKind::Http,
        reason: error.to_string(),
    })
}
