//! The status of a running pipeline, for others to read while it runs.

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
    /// A snapshot, without the secrets that a server may have repeated: anybody
    /// who reaches the pipeline's HTTP reads it.
    pub fn status(&self) -> Status {
        let mut sinks: Vec<SinkStatus> = self.stats.iter().map(|it| it.status()).collect();
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
