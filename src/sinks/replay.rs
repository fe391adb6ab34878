//! Records through one sink once more: stretches of the log, or records that
//! were kept elsewhere.

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

/// Through what the records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The enriched rows.
    ClickHouse,
    /// The copy of the catalogue.
    Content,
    Http {
        /// Also tell of rows that only a snapshot has shown.
        include_snapshots: bool,
    },
}

/// Replays the parts that are not done, one after the other.
///
/// # Errors
/// When the sink halts or refuses for too long, or the log cannot be read.
/// What was stored by then has been told to `watch`.
pub async fn replay(
    connections: &Connections,
    through: Through,
    parts: &mut [Part],
    bounds: &Bounds,
    watch: &mut dyn Watch,
) -> Result<Tally, ReplayError> {
    run(connections, through, Parts(parts, watch), bounds).await
}

/// Applies records at the places they had. Returns what became of them.
///
/// # Errors
/// When the sink halts or refuses for too long, or the records cannot be read.
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
    // A replay is bounded: nobody watches the source for it.
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
