//! Opens the HTTP sink for a worker or a replay.

use super::{History, Http, LegacyState};
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

/// Limits of a batch for the external system. After a crash, up to one batch is sent
/// again.
pub(crate) const LIMITS: Limits = Limits {
    records: 512,
    bytes: 64 * 1024 * 1024,
};

/// Opens the sink to the external system.
pub(crate) fn open(
    shared: &Shared,
    connections: &Connections,
    settings: &config::External,
) -> Result<Http, PipelineError> {
    let group = ConsumerGroup::Http;
    let log = shared_log(shared, group)?;
    let backfill_group = mended_group(&shared.group_prefix, group);
    let incarnation_group = lives_group(&shared.group_prefix, group);
    let legacy = LegacyState {
        backfills: log_of(shared, &backfill_group)?,
        incarnations: log_of(shared, &incarnation_group)?,
        dead_letter_topic: connections.settings().kafka.dead_letter_topic.clone(),
    };
    let (topic, notes) = (shared.source.facts.topic(), shared.notes(group));
    let history = History::new(topic, log, notes, legacy);
    let decoder =
        FactDecoder::with_placeholders(shared.source.facts.clone(), shared.placeholders.facts());
    let sink = Http::new(settings, &connections.external, decoder, history);
    sink.map_err(|error| PipelineError::Sink {
        sink: SinkKind::Http,
        reason: error.to_string(),
    })
}
