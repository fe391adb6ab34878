//! The board, made anew: whoever publishes it loses the lease, and whoever
//! takes it next reads the window from the log again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::BackfillError;
use crate::{
    clients::redis::{self, BoardKeys, BoardReader},
    config::Settings,
    crash,
    operations::steps::Steps,
};

/// For how long nobody may publish: longer than between two publications.
const HELD: Duration = Duration::from_millis(2500);

/// Between two looks at the board.
const POLL: Duration = Duration::from_millis(100);

/// Takes the lease away and waits until a complete board is published under the
/// next one. Returns how many members it has.
pub(super) async fn rebuild(
    settings: &Settings,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<u64, BackfillError> {
    let keys = BoardKeys::new(&settings.board.key);
    let patience = Duration::from_millis(settings.redis.request_timeout_ms);
    // Held rather than deleted: a lease that nobody has is taken back by who
    // had it, without reading the log again.
    let holder = format!("rebuild-{}", Uuid::new_v4());
    redis::hold(&settings.redis.url, &keys.lease, &holder, HELD).await?;
    crash::point("backfill", "lease_taken_away");
    let started = Instant::now();
    let mut reader = BoardReader::connect(&settings.redis.url, keys, patience).await?;
    // The last publication under the old lease: nobody can publish meanwhile.
    // Whatever differs comes later. Clocks, which may differ, have no say.
    let last = reader.read(Some(0)).await?.meta;
    steps.doing("rebuilding the board");
    loop {
        let view = reader.read(Some(0)).await?;
        let anew = |meta: &redis::Meta| meta.complete && Some(*meta) != last;
        if view.lease.is_some() && view.meta.as_ref().is_some_and(anew) {
            return Ok(view.cardinality);
        }
        if started.elapsed() >= timeout {
            return Err(BackfillError::NoBoard { waited: timeout });
        }
        sleep(POLL).await;
    }
}
