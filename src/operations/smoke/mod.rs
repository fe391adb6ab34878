//! One marked event, followed by its id through every hop: topic, ClickHouse,
//! board, external call. Measured from its commit in Postgres.

mod error;
mod hop;
mod hops;
mod junit;
mod marked;

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use error::SmokeError;
pub use hop::{Hop, Outcome, Place};
pub use junit::junit;

use self::marked::Marked;
use crate::{
    connections::Connections,
    progress::{Progress, steps::Steps},
    source::explain,
};

/// How long to wait, and how fast it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// For all hops together.
    pub timeout: Duration,
    /// From the commit in Postgres to the board.
    pub latency_budget: Duration,
}

/// The way of the event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub event_id: i64,
    pub content_id: uuid::Uuid,
    pub latency_budget_ms: u64,
    pub hops: Vec<Hop>,
}

impl Report {
    /// The first hop that is broken, in the order of the way.
    #[must_use]
    pub fn broken(&self) -> Option<&Hop> {
        let mut hops = self.hops.iter();
        hops.find(|hop| hop.outcome == Outcome::Broken)
    }
}

/// Follows one event. The rows are deleted again at the end; the deletes go
/// the same way.
///
/// # Errors
/// When Postgres does not take the event: then there is nothing to follow. A
/// hop that fails is no error.
pub async fn smoke(
    connections: &Connections,
    options: Options,
    progress: &dyn Progress,
) -> Result<Report, SmokeError> {
    let steps = Steps::new(progress, "smoke");
    let client = connections.postgres.connect().await?;
    // Before the event, so that it cannot slip by.
    let topic = hops::Topic::watch(connections).await;
    let marked = match Marked::insert(&client).await {
        Ok(marked) => marked,
        Err(error) => {
            let refusal = explain(connections).await;
            return Err(refusal.map_or(SmokeError::Postgres(error), SmokeError::Source));
        }
    };
    let committed = Instant::now();
    let follow = hops::Follow {
        connections,
        settings: connections.settings(),
        marked: &marked,
        committed,
        deadline: committed + options.timeout,
        budget: options.latency_budget,
    };
    steps.doing(&format!("following event {}", marked.event_id));
    let (kafka, clickhouse, redis, http) = tokio::join!(
        follow.kafka(topic),
        follow.clickhouse(),
        follow.redis(),
        follow.http()
    );
    let report = Report {
        event_id: marked.event_id,
        content_id: marked.content_id,
        latency_budget_ms: u64::try_from(options.latency_budget.as_millis()).unwrap_or(u64::MAX),
        hops: vec![kafka, clickhouse, redis, http],
    };
    // What was followed is of no more use; if this fails, it only stays.
    if let Err(error) = marked.delete(&client).await {
        tracing::debug!(%error, "the marked rows stay");
    }
    steps.done("followed");
    Ok(report)
}
