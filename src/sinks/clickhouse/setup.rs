//! Opens the ClickHouse sinks for the workers and for a replay.

use std::sync::Arc;

use super::Common;
use crate::{
    connections::Connections,
    runtime::{
        GenerationLog,
        error::PipelineError,
        shared::{Shared, shared_log},
    },
    sink_kind::{ConsumerGroup, SinkKind},
};

/// Returns the state shared by the ClickHouse sinks.
pub(crate) fn open(
    shared: &Shared,
    connections: &Connections,
) -> Result<Arc<Common>, PipelineError> {
    let common = Common::new(
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
