//! What all checks share: the connections, the settings and the deadline.

use std::time::Duration;

use tokio::time::Instant;

use super::error::VerifyError;
use crate::{
    config::Settings,
    connections::Connections,
    progress::{Silent, steps::Steps},
    runtime::{
        KnownPlaceholders,
        barrier::{self, Fence},
    },
    sink_kind::SinkKind,
    source::tables,
    spill::scratch::Scratch,
};

/// Minimum time to wait for a barrier, even after the deadline.
const AT_LEAST: Duration = Duration::from_secs(5);

/// What all checks share.
pub(crate) struct Context<'a> {
    pub(crate) connections: &'a Connections,
    pub(crate) settings: &'a Settings,
    pub(crate) scratch: &'a Scratch,
    /// The configured sinks.
    pub(crate) sinks: &'a [SinkKind],
    /// The source's tables.
    pub(crate) tables: tables::Source,
    pub(crate) placeholders: KnownPlaceholders,
    pub(crate) deadline: Instant,
    pub(crate) steps: Steps<'a>,
}

impl Context<'_> {
    /// Whether this sink is configured.
    pub(super) fn has(&self, sink: SinkKind) -> bool {
        self.sinks.contains(&sink)
    }

    /// Waits behind another barrier until all sinks have caught up.
    pub(crate) async fn fence(&self) -> Result<Fence, VerifyError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = left.max(AT_LEAST);
        Ok(barrier::wait(self.connections, self.sinks, timeout, &Silent).await?)
    }
}
