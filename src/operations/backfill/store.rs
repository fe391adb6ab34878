//! Creates the rebuild of a backfill, and retries requests to a store.

use std::time::Duration;

use super::error::BackfillError;
use crate::{
    connections::Connections,
    runtime::{Fault, replay::ReplayError},
    sinks::clickhouse::Rebuild,
    source::tables::{content_topic, events_topic, reader_group},
};

/// Pause between two attempts.
const POLL: Duration = Duration::from_millis(200);

/// Creates the rebuild under these settings. It includes ClickHouse if `into_clickhouse`. Sends
/// no request yet.
pub(super) fn rebuild(
    connections: &Connections,
    into_clickhouse: bool,
) -> Result<Rebuild, BackfillError> {
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let reader = reader_group(settings, "backfill");
    let log = kafka.log(&reader)?;
    let state = kafka.state(&reader, &settings.kafka.state_topic)?;
    let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    let store = || connections.clickhouse.store(false, timeout);
    let store = into_clickhouse.then(store).transpose()?;
    let prefix = &settings.kafka.group_prefix;
    let topics = (events_topic(settings), content_topic(settings));
    Ok(Rebuild::new(store, (log, state), kafka, prefix, topics))
}

/// Retries a request to a store until it succeeds, fails permanently, or has been refused for
/// longer than `patience`.
pub(super) async fn insist<T, F: Future<Output = Result<T, Fault>>>(
    patience: Duration,
    request: impl Fn() -> F,
) -> Result<T, BackfillError> {
    let started = tokio::time::Instant::now();
    loop {
        let reason = match request().await {
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
