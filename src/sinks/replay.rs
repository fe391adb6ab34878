//! Writes records to one sink again: offset ranges of the log, or records that were
//! stored elsewhere.

use super::{
    clickhouse::{self, ContentMirror, Facts},
    http,
};
use crate::{
    connections::Connections,
    kafka::Limits,
    runtime::{
        replay::{Batches, Bounds, Kepts, Part, Parts, ReplayError, Run, Tally, Watch, Work},
        shared::shared,
        source,
    },
    sink_kind::ConsumerGroup,
};

/// The sink that the records are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The enriched table.
    ClickHouse,
    /// The content table.
    Content,
    Http {
        /// Also send rows that only a snapshot has read.
        include_snapshots: bool,
    },
}

/// Replays the unfinished parts one after the other.
///
/// # Errors
/// If the sink halts or fails for too long, or the log cannot be read. The progress
/// made so far has been reported to `watch`.
pub async fn replay(
    connections: &Connections,
    through: Through,
    parts: &mut [Part],
    bounds: &Bounds,
    watch: &mut dyn Watch,
) -> Result<Tally, ReplayError> {
    run(connections, through, Parts(parts, watch), bounds).await
}

/// Applies records at their original offsets. Returns the counts of the outcomes.
///
/// # Errors
/// If the sink halts or fails for too long, or the records cannot be read.
pub async fn apply(
    connections: &Connections,
    through: Through,
    batches: &mut impl Batches,
    bounds: &Bounds,
) -> Result<Tally, ReplayError> {
    run(connections, through, Kepts(batches), bounds).await
}

async fn run(
    connections: &Connections,
    through: Through,
    work: impl Work,
    bounds: &Bounds,
) -> Result<Tally, ReplayError> {
    // A replay is bounded, so the source is not watched for it.
    let (_, watch) = source::source();
    let settings = connections.settings();
    let shared = shared(connections, watch, bounds.stop.clone())?;
    let (facts, content) = (shared.source.facts.topic(), shared.source.content.topic());
    let rows = Limits {
        records: settings.clickhouse.batch_rows,
        bytes: settings.clickhouse.batch_bytes,
    };
    match through {
        Through::ClickHouse => {
            let sink = Facts::new(clickhouse::open(&shared, connections)?);
            let group = ConsumerGroup::Facts;
            let run = Run::new(&shared, group, facts, rows, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
        Through::Content => {
            let sink = ContentMirror::new(clickhouse::open(&shared, connections)?);
            let group = ConsumerGroup::Content;
            let run = Run::new(&shared, group, content, rows, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
        Through::Http { include_snapshots } => {
            let mut settings = settings.external.clone();
            settings.include_snapshots |= include_snapshots;
            let sink = http::open(&shared, connections, &settings)?;
            let group = ConsumerGroup::Http;
            let run = Run::new(&shared, group, facts, http::LIMITS, bounds, sink).await?;
            Box::pin(run.work(work)).await
        }
    }
}
