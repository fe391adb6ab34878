//! Restarts failed tasks of the connector while the pipeline runs. The number of restarts per
//! hour is limited, so that a permanent failure stays visible.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::restart_failed;
use crate::connections::Connections;

/// Interval between two checks of the connector.
const INTERVAL: Duration = Duration::from_secs(10);

/// Period over which restarts are limited.
const HOUR: Duration = Duration::from_secs(3600);

/// Restarts failed tasks of the connector until `stop` is cancelled.
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
            Err(error) => tracing::debug!(%error, "cannot check the connector"),
        }
    }
}
