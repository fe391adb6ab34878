//! Rebuilds the board: takes the lease away from its holder. The next holder then
//! reads the window from the log again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{BoardKeys, Meta};
use crate::{
    connections::{Connections, redis::RedisError},
    crash,
    failure::{Failure, Kind},
    progress::{Progress, steps::Steps},
};

/// How long the lease is taken from the workers. Longer than the interval between two
/// publications.
const LEASE_DURATION: Duration = Duration::from_millis(2500);

/// Interval between two reads of the board.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the board was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("cannot rebuild the board in redis")]
    Redis(#[from] RedisError),
    #[error("the board was not published within {}s", waited.as_secs())]
    NoBoard { waited: Duration },
}

impl Failure for BoardError {
    fn kind(&self) -> Kind {
        match self {
            Self::Redis(_) => Kind::Environment,
            Self::NoBoard { .. } => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::NoBoard { .. } => "board_not_ready",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Redis(_) => "fanout status",
            Self::NoBoard { .. } => "fanout status: check that `fanout run` is running",
        };
        Some(hint.to_owned())
    }
}

/// Rebuilds the board. Returns its number of members.
///
/// # Errors
/// If no worker publishes the board within `timeout`, or Redis does not respond.
pub async fn rebuild(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<u64, BoardError> {
    let steps = Steps::new(progress, "redis");
    let members = wait_for_rebuild(connections, timeout, &steps).await?;
    steps.done("rebuilt");
    Ok(members)
}

/// Takes the lease away and waits until a complete board is published under the next
/// lease. Returns its number of members.
async fn wait_for_rebuild(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<u64, BoardError> {
    let (settings, redis) = (connections.settings(), &connections.redis);
    let keys = BoardKeys::new(&settings.board.key);
    let request_timeout = Duration::from_millis(settings.redis.request_timeout_ms);
    // If the lease were deleted, its former holder would acquire it again without
    // reading the log.
    let holder = format!("rebuild-{}", Uuid::new_v4());
    redis.hold(&keys.lease, &holder, LEASE_DURATION).await?;
    crash::point("backfill", "lease_taken_away");
    let started = Instant::now();
    let mut reader = redis.board(keys, request_timeout).await?;
    // The last publication under the old lease, because no worker can publish now. Any
    // other publication is later. Times are not compared, since clocks may differ.
    let last = reader.read(Some(0)).await?.meta;
    steps.doing("rebuilding the board");
    loop {
        let view = reader.read(Some(0)).await?;
        let is_rebuilt = |meta: &Meta| meta.complete && Some(*meta) != last;
        if view.lease.is_some() && view.meta.as_ref().is_some_and(is_rebuilt) {
            return Ok(view.cardinality);
        }
        if started.elapsed() >= timeout {
            return Err(BoardError::NoBoard { waited: timeout });
        }
        sleep(POLL_INTERVAL).await;
    }
}
