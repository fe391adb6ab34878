//! Compares every store with the source on live servers: the view with the join,
//! the board with its window, the calls of the external system with the inserts,
//! and every record of the log with what became of it.
//!
//! Everything is compared behind a barrier, so a difference is never a record that
//! is still under way.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use crate::audit::{
    error::VerifyError,
    findings::{Check, Difference, Findings, Kind, MAX_SHOWN},
};

use crate::{
    audit::{Audit, context::Context, letters::Letters, snapshot::Snapshot, truth::Truth},
    connections::{Connections, clickhouse::InvalidUrl},
    failure::chain,
    progress::{Progress, steps::Steps},
    runtime::{
        KnownPlaceholders,
        barrier::{self, Fence},
    },
    sink_kind::SinkKind,
    sinks::{clickhouse, http, redis},
    source::explain,
    source::tables,
    source::tables::{content_topic, events_topic, reader_group},
    spill::scratch::Scratch,
};

/// What was verified, and up to which point of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub fence: Fence,
    pub checks: Vec<Findings>,
}

impl Report {
    /// Whether no check found a difference or left anything unjudged.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Findings::holds)
    }
}

/// Checks everything that the configured sinks promise. Checks of other sinks are
/// skipped. `timeout` limits the time until all sinks have caught up, not the time
/// of the comparison.
///
/// # Errors
/// When a server does not answer, the sinks do not catch up in time, or the board is
/// not complete in time. A difference is not an error.
pub async fn verify(
    connections: &Connections,
    scratch: &Scratch,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Report, VerifyError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let audits = audits(connections, &settings.pipeline.sinks)?;
    let tables = tables::Source::new(&settings.kafka.topic_prefix);
    let reader = reader_group(settings, "verify");
    let state = kafka.state(&reader, &settings.kafka.state_topic)?;
    let log = kafka.log(&reader)?;
    let placeholders = KnownPlaceholders::new(state, log, &tables.facts, &tables.content);
    let context = Context {
        connections,
        settings,
        scratch,
        sinks: &settings.pipeline.sinks,
        tables,
        placeholders,
        deadline: Instant::now() + timeout,
        steps: Steps::new(progress, "verify"),
    };
    if let Some(refusal) = explain(connections).await {
        return Err(VerifyError::Source(refusal));
    }
    let snapshot = Snapshot::take(&connections.postgres).await?;
    let fence = barrier::wait(connections, context.sinks, timeout, progress).await?;
    // Behind the barrier, so that every placeholder of an earlier record is known.
    context.placeholders.load().await?;
    let letters = letters(connections, scratch).await?;
    let stores = audits.iter().filter_map(|audit| audit.store()).collect();
    let mut truth = Truth::new(&context, snapshot, &fence, &letters, stores);
    let mut checks = Vec::new();
    let mut failed = None;
    for check in Check::OF_SINKS {
        let mut of_check = audits
            .iter()
            .filter(|audit| audit.check() == check)
            .peekable();
        if of_check.peek().is_none() {
            checks.push(Findings::not_driven(check));
        }
        for audit in of_check {
            match audit.audit(&mut truth).await {
                Ok(findings) => checks.push(findings),
                Err(error) if audit.may_fail() => {
                    checks.push(Findings::skipped(check, chain(&error)));
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    checks.push(truth.into_records().await?);
    context.steps.done("compared");
    let report = Report { fence, checks };
    match failed {
        // A difference says more than a check that failed.
        Some(error) if report.holds() => Err(error),
        _ => Ok(report),
    }
}

/// Returns the audits of these sinks.
fn audits<'a>(
    connections: &'a Connections,
    sinks: &[SinkKind],
) -> Result<Vec<Box<dyn Audit + 'a>>, InvalidUrl> {
    let mut audits: Vec<Box<dyn Audit + 'a>> = Vec::new();
    for sink in SinkKind::ALL.iter().filter(|sink| sinks.contains(sink)) {
        let audit: Box<dyn Audit + 'a> = match sink {
            SinkKind::Redis => Box::new(redis::audit::BoardAudit),
            SinkKind::ClickHouse => Box::new(clickhouse::audit::ViewAudit::new(connections)?),
            SinkKind::Http => Box::new(http::audit::CallAudit),
        };
        audits.push(audit);
    }
    Ok(audits)
}

/// Reads the dead letters that both topics have now.
async fn letters(connections: &Connections, scratch: &Scratch) -> Result<Letters, VerifyError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "verify"))?;
    let mut lives = Vec::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        let generation = identity.map(|identity| identity.to_string());
        lives.push((topic, generation));
    }
    Letters::read(connections, scratch, &lives).await
}
