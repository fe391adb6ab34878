//! What all checks share.

use std::time::Duration;

use tokio::time::Instant;

use super::{error::VerifyError, findings::Check};
use crate::{
    clients::{Connections, clickhouse},
    config::Settings,
    operations::{
        fence::{self, Fence},
        scratch::Scratch,
        steps::Steps,
    },
    pipeline,
    progress::Silent,
    sink_kind::SinkKind,
    sinks::KnownPlaceholders,
};

/// A fence gets at least so long, whatever is left of the time.
const AT_LEAST: Duration = Duration::from_secs(5);

/// What all checks share.
pub(super) struct Context<'a> {
    pub(super) connections: &'a Connections,
    pub(super) settings: &'a Settings,
    pub(super) scratch: &'a Scratch,
    pub(super) query: clickhouse::Query,
    /// Those that the pipeline drives.
    pub(super) sinks: &'a [SinkKind],
    /// Of the source's tables.
    pub(super) tables: pipeline::Source,
    pub(super) placeholders: KnownPlaceholders,
    pub(super) deadline: Instant,
    pub(super) steps: Steps<'a>,
}

impl Context<'_> {
    /// Whether the pipeline drives this sink.
    pub(super) fn has(&self, sink: SinkKind) -> bool {
        self.sinks.contains(&sink)
    }

    /// Whether it drives the sink that this is a check of.
    pub(super) fn checks(&self, check: Check) -> bool {
        self.sinks.iter().any(|sink| Check::of(*sink) == check)
    }

    /// Another fence, within what is left of the time.
    pub(super) async fn fence(&self) -> Result<Fence, VerifyError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = left.max(AT_LEAST);
        Ok(fence::wait(self.connections, self.sinks, timeout, &Silent).await?)
    }
}
