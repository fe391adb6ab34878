//! Inserts a marked event and follows it by its id through every hop: the topic,
//! then each sink. Times are measured from its commit in Postgres.

mod error;
mod hop;
mod hops;
mod junit;
mod marked;

use std::{iter, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::Instant;

pub use error::SmokeError;
pub use hop::{Hop, Outcome, Place};
pub use junit::junit;

use self::marked::Marked;
use crate::{
    connections::Connections,
    progress::{Progress, steps::Steps},
    sink_kind::SinkKind,
    source::explain,
};

/// The sinks in the order of the report.
const SINKS: [SinkKind; SinkKind::ALL.len()] =
    [SinkKind::ClickHouse, SinkKind::Redis, SinkKind::Http];

/// Time limits of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Maximum time to wait for all hops.
    pub timeout: Duration,
    /// Maximum time from the commit in Postgres to the board.
    pub latency_budget: Duration,
}

/// The path of the event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub event_id: i64,
    pub content_id: uuid::Uuid,
    pub latency_budget_ms: u64,
    /// The topic, then the sinks.
    pub hops: Vec<Hop>,
}

impl Report {
    /// Returns the first broken hop.
    #[must_use]
    pub fn broken(&self) -> Option<&Hop> {
        let mut hops = self.hops.iter();
        hops.find(|hop| hop.outcome == Outcome::Broken)
    }
}

/// Inserts one event and follows it. Deletes the inserted rows at the end; the
/// deletes take the same path.
///
/// # Errors
/// If Postgres does not accept the event, because there is nothing to follow
/// then. A broken hop is not an error.
pub async fn smoke(
    connections: &Connections,
    options: Options,
    progress: &dyn Progress,
) -> Result<Report, SmokeError> {
    let steps = Steps::new(progress, "smoke");
    let client = connections.postgres.connect().await?;
    // Before the insert, so that the event cannot be missed.
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
    let sinks = join_all(SINKS.map(|kind| follow.sink(kind)));
    let (kafka, sinks) = tokio::join!(follow.kafka(topic), sinks);
    let report = Report {
        event_id: marked.event_id,
        content_id: marked.content_id,
        latency_budget_ms: u64::try_from(options.latency_budget.as_millis()).unwrap_or(u64::MAX),
        hops: iter::once(kafka).chain(sinks).collect(),
    };
    // The rows are not needed any more, but do no harm either.
    if let Err(error) = marked.delete(&client).await {
        tracing::debug!(%error, "the marked rows stay");
    }
    steps.done("followed");
    Ok(report)
}
