//! Reports the status of a running pipeline.

use std::sync::Arc;

use super::{
    source::SourceWatch,
    stats::SinkStats,
    status::{SinkStatus, Status},
};
use crate::secret::Redactor;

/// Reads the statistics of a running pipeline.
#[derive(Debug, Clone)]
pub struct Reporter {
    pub(crate) redactor: Redactor,
    pub(crate) project: String,
    pub(crate) started_ms: i64,
    pub(crate) stats: Vec<Arc<SinkStats>>,
    pub(crate) source: SourceWatch,
}

impl Reporter {
    /// Returns a snapshot of the status. Secrets in the messages of servers are
    /// redacted, because any client of the pipeline's HTTP server can read it.
    pub fn status(&self) -> Status {
        let mut sinks: Vec<SinkStatus> = self.stats.iter().map(|stats| stats.status()).collect();
        for text in sinks.iter_mut().flat_map(SinkStatus::texts) {
            *text = self.redactor.redact(text).into_owned();
        }
        Status {
            format: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            project: self.project.clone(),
            pid: std::process::id(),
            started_ms: self.started_ms,
            source: self.source.latest(),
            sinks,
        }
    }
}
