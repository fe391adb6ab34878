//! Whether the promises hold, on live servers: the view against the join, the
//! board against its window, the external calls against the inserts, and every
//! record of the log against what became of it.
//!
//! Everything is judged behind a fence, so a difference is one of fanout's and
//! not of a record still under way.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use crate::audit::{
    error::VerifyError,
    findings::{Check, Difference, Findings, Kind, MAX_SHOWN},
};

use crate::{
    audit::{
        context::Context,
        letters::Letters,
        log::{Life, Walk},
    },
    connections::Connections,
    failure::chain,
    progress::{Progress, steps::Steps},
    runtime::{
        GenerationLog, KnownPlaceholders,
        barrier::{self, Fence},
    },
    sink_kind::SinkKind,
    sinks::{
        clickhouse::{self, truth::Source},
        http, redis,
    },
    source::explain,
    source::tables,
    source::tables::{content_topic, events_topic, reader_group},
    spill::{bucket, scratch::Scratch},
};

/// What was verified, and up to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub fence: Fence,
    pub checks: Vec<Findings>,
}

impl Report {
    /// Whether everything agrees, as far as it was asked, and nothing is left
    /// in doubt.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Findings::holds)
    }
}

/// Checks everything that the configured sinks promise; the checks of others are
/// skipped. `timeout` bounds the waiting until they are caught up, not the
/// comparing.
///
/// # Errors
/// When a server does not answer, the sinks do not catch up in time, or the
/// board is not complete in time. A difference is no error.
pub async fn verify(
    connections: &Connections,
    scratch: &Scratch,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Report, VerifyError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let query = connections.clickhouse.query()?;
    let tables = tables::Source::new(&settings.kafka.topic_prefix);
    let reader = reader_group(settings, "verify");
    let state = kafka.state(&reader, &settings.kafka.state_topic)?;
    let log = kafka.log(&reader)?;
    let placeholders = KnownPlaceholders::new(state, log, &tables.facts, &tables.content);
    let context = Context {
        connections,
        settings,
        scratch,
        query,
        sinks: &settings.pipeline.sinks,
        tables,
        placeholders,
        deadline: Instant::now() + timeout,
        steps: Steps::new(progress, "verify"),
    };
    if let Some(refusal) = explain(connections).await {
        return Err(VerifyError::Source(refusal));
    }
    let source = Source::snapshot(&connections.postgres).await?;
    let fence = barrier::wait(connections, context.sinks, timeout, progress).await?;
    // Behind the fence: no record before it holds a placeholder of later.
    context.placeholders.load().await?;
    let letters = letters(connections, scratch).await?;
    let mut checks = Vec::new();
    if context.checks(Check::Rows) {
        context.steps.doing("comparing rows");
        checks.push(clickhouse::audit::check(&context, &source, &letters).await?);
    } else {
        checks.push(Findings::not_driven(Check::Rows));
    }
    drop(source);
    let mut unjudged = None;
    if context.checks(Check::Board) {
        match redis::audit::check(&context, &letters).await {
            Ok(findings) => checks.push(findings),
            Err(error) => {
                checks.push(Findings::skipped(Check::Board, chain(&error)));
                unjudged = Some(error);
            }
        }
    } else {
        checks.push(Findings::not_driven(Check::Board));
    }
    context.steps.doing("reading the log");
    let heaps = bucket::heaps_for(fence.events.iter().sum::<i64>().unsigned_abs());
    let journal = if context.checks(Check::External) {
        http::audit::journal(connections, scratch, heaps).await?
    } else {
        None
    };
    let life = life(connections, context.sinks).await?;
    let mut walk = Walk::new(&context, &fence, &letters, life, heaps);
    let told = walk.run(journal.is_some()).await?;
    checks.push(if context.checks(Check::External) {
        http::audit::check(&walk, journal, told).await?
    } else {
        Findings::not_driven(Check::External)
    });
    checks.push(walk.into_records());
    context.steps.done("compared");
    let report = Report { fence, checks };
    match unjudged {
        // A difference says more than a board that cannot be judged.
        Some(error) if report.holds() => Err(error),
        _ => Ok(report),
    }
}

/// Where history begins, and where its rows do in ClickHouse, where that is a sink.
async fn life(connections: &Connections, sinks: &[SinkKind]) -> Result<Life, VerifyError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let reader = reader_group(settings, "verify");
    let state = kafka.state(&reader, &settings.kafka.state_topic)?;
    let latest = GenerationLog::new(state).latest().await;
    let has_rows = sinks.contains(&SinkKind::ClickHouse);
    if let Some(generation) = latest.map_err(VerifyError::state)? {
        let is_rebuilt = generation.is_rebuilt();
        let starts = generation.begun.facts.starts;
        return Ok(Life {
            starts: if has_rows { starts } else { Vec::new() },
            is_rebuilt,
        });
    }
    if !has_rows {
        return Ok(Life::default());
    }
    // No worker has taken over yet what an earlier release recorded.
    let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    let store = connections.clickhouse.store(false, timeout)?;
    let lives = store.lives(&events_topic(settings)).await?;
    Ok(Life {
        is_rebuilt: lives.len() > 1,
        starts: lives
            .into_iter()
            .last()
            .map_or(Vec::new(), |life| life.starts),
    })
}

/// The dead letters of both topics as they are now.
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
