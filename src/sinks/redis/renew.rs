//! The board, made anew: whoever publishes it loses the lease, and whoever
//! takes it next reads the window from the log again.

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

/// For how long nobody may publish: longer than between two publications.
const HELD: Duration = Duration::from_millis(2500);

/// Between two looks at the board.
const POLL: Duration = Duration::from_millis(100);

/// Why the board was not made anew.
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
            Self::NoBoard { .. } => "fanout status: is `fanout run` up?",
        };
        Some(hint.to_owned())
    }
}

/// Has the board made anew; returns its members.
///
/// # Errors
/// When nobody publishes it within `timeout`, or Redis does not answer.
pub async fn rebuild(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<u64, BoardError> {
    let steps = Steps::new(progress, "redis");
    let members = published_anew(connections, timeout, &steps).await?;
    steps.done("rebuilt");
    Ok(members)
}

/// Takes the lease away and waits until a complete board is published under the
/// next one. Returns how many members it has.
async fn published_anew(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<u64, BoardError> {
    let (settings, redis) = (connections.settings(), &connections.redis);
    let keys = BoardKeys::new(&settings.board.key);
    let patience = Duration::from_millis(settings.redis.request_timeout_ms);
    // Held rather than deleted: a lease that nobody has is taken back by who
    // had it, without reading the log again.
    let holder = format!("rebuild-{}", Uuid::new_v4());
    redis.hold(&keys.lease, &holder, HELD).await?;
    crash::point("backfill", "lease_taken_away");
    let started = Instant::now();
    let mut reader = redis.board(keys, patience).await?;
    // The last publication under the old lease: nobody can publish meanwhile.
    // Whatever differs comes later. Clocks, which may differ, have no say.
    let last = reader.read(Some(0)).await?.meta;
    steps.doing("rebuilding the board");
    loop {
        let view = reader.read(Some(0)).await?;
        let anew = |meta: &Meta| meta.complete && Some(*meta) != last;
        if view.lease.is_some() && view.meta.as_ref().is_some_and(anew) {
            return Ok(view.cardinality);
        }
        if started.elapsed() >= timeout {
            return Err(BoardError::NoBoard { waited: timeout });
        }
        sleep(POLL).await;
    }
}
