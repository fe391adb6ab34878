//! Restarts failed tasks while the pipeline runs, a bounded number of times an
//! hour: a passing fault mends itself, a lasting one is left to be seen.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::restart_failed;
use crate::connections::Connections;

/// How often the connector is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Restarts are bounded over this long.
const HOUR: Duration = Duration::from_secs(3600);

/// Keeps the connector's tasks running until `stop`.
pub async fn keep(connections: Connections, stop: CancellationToken) {
    let allowed = connections.settings().connect.task_restarts_per_hour as usize;
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    loop {
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        while restarts.front().is_some_and(|at| at.elapsed() > HOUR) {
            restarts.pop_front();
        }
        if restarts.len() >= allowed {
            continue;
        }
        match restart_failed(&connections).await {
            Ok(true) => {
                restarts.push_back(Instant::now());
                tracing::warn!(
                    restarts = restarts.len(),
                    allowed,
                    "a failed task of the connector was restarted"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the connector cannot be looked at"),
        }
    }
}
