//! What all checks share.

use std::time::Duration;

use tokio::time::Instant;

use super::{error::VerifyError, findings::Check};
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

/// A fence gets at least so long, whatever is left of the time.
const AT_LEAST: Duration = Duration::from_secs(5);

/// What all checks share.
pub(crate) struct Context<'a> {
    pub(crate) connections: &'a Connections,
    pub(crate) settings: &'a Settings,
    pub(crate) scratch: &'a Scratch,
    pub(crate) query: crate::sinks::clickhouse::Query,
    /// Those that the pipeline drives.
    pub(crate) sinks: &'a [SinkKind],
    /// Of the source's tables.
    pub(crate) tables: tables::Source,
    pub(crate) placeholders: KnownPlaceholders,
    pub(crate) deadline: Instant,
    pub(crate) steps: Steps<'a>,
}

impl Context<'_> {
    /// Whether the pipeline drives this sink.
    pub(super) fn has(&self, sink: SinkKind) -> bool {
        self.sinks.contains(&sink)
    }

    /// Whether it drives the sink that this is a check of.
    pub(crate) fn checks(&self, check: Check) -> bool {
        self.sinks.iter().any(|sink| Check::of(*sink) == check)
    }

    /// Another fence, within what is left of the time.
    pub(crate) async fn fence(&self) -> Result<Fence, VerifyError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = left.max(AT_LEAST);
        Ok(barrier::wait(self.connections, self.sinks, timeout, &Silent).await?)
    }
}
