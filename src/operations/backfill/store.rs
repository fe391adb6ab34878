//! The store that a backfill rebuilds, and how long it is asked.

use std::time::Duration;

use super::error::BackfillError;
use crate::{
    clients::Connections,
    operations::fence::{content_topic, events_topic, reader_group},
    pipeline::replay::ReplayError,
    sinks::{Fault, clickhouse::Rebuild},
};

/// Between two tries.
const POLL: Duration = Duration::from_millis(200);

/// The rebuild of ClickHouse under these settings. Nothing is asked yet.
pub(super) fn rebuild(connections: &Connections) -> Result<Rebuild, BackfillError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "backfill"))?;
    let (facts, content) = (events_topic(settings), content_topic(settings));
    let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    let store = connections.clickhouse.store(false, timeout)?;
    Ok(Rebuild::new(store, log, facts, content))
}

/// Asks a store until it works, is hopeless, or has refused for too long.
pub(super) async fn insist<T, F: Future<Output = Result<T, Fault>>>(
    patience: Duration,
    ask: impl Fn() -> F,
) -> Result<T, BackfillError> {
    let started = tokio::time::Instant::now();
    loop {
        let reason = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(Fault::Halt(halt)) => return Err(ReplayError::Halted(halt).into()),
            Err(Fault::Retry { reason, .. }) => reason,
        };
        let waited = started.elapsed();
        if waited >= patience {
            return Err(ReplayError::Refused { reason, waited }.into());
        }
        tokio::time::sleep(POLL).await;
    }
}
