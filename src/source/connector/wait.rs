//! Waits until Connect reports the requested state of the connector.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    error::ConnectorError,
    rest::Rest,
    session::is_connected,
    status::{ConnectorStatus, State},
};
use crate::{connections::Connections, progress::steps::Steps};

/// Interval between two reads of the status.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// Number of consecutive reads that must report running tasks. A task that fails immediately
/// is reported as running for a moment.
const STEADY_READS: u32 = 2;

/// How long Connect may still report an earlier failure after a restart.
const STALE_FAILURE: Duration = Duration::from_secs(3);

/// Stops the connector and waits until it has no tasks.
pub(super) async fn stop(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<(), ConnectorError> {
    rest.put("stop", deadline).await?;
    until(rest, deadline, steps, |status| {
        status.state == State::Stopped && status.tasks.is_empty()
    })
    .await?;
    Ok(())
}

/// Waits until all tasks run and the connector is connected to Postgres. A failed task is
/// restarted once. If it fails again, its failure is returned.
pub(super) async fn until_running(
    connections: &Connections,
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<ConnectorStatus, ConnectorError> {
    let mut steady = 0;
    let mut restarted: Option<Instant> = None;
    loop {
        let status = rest.status().await?;
        if let Some(status) = &status {
            steps.doing(&status.summary());
            if matches!(status.state, State::Paused | State::Stopped) {
                return Err(ConnectorError::Paused {
                    name: status.name.clone(),
                    state: status.state,
                });
            }
            if let Some(cause) = status.failure() {
                match restarted {
                    None => {
                        rest.restart(true, deadline).await?;
                        restarted = Some(Instant::now());
                    }
                    Some(at) if at.elapsed() > STALE_FAILURE => {
                        return Err(ConnectorError::failed(connections.settings(), cause));
                    }
                    Some(_) => {}
                }
            }
        }
        match status {
            Some(status) if status.is_running() => {
                steady += 1;
                if steady >= STEADY_READS {
                    if is_connected(connections).await != Some(false) {
                        return Ok(status);
                    }
                    steps.doing("waiting for its connection to postgres");
                    if Instant::now() >= deadline {
                        let name = status.name;
                        return Err(ConnectorError::NotConnected { name });
                    }
                }
            }
            other if Instant::now() >= deadline => {
                return Err(rest.not_running(other));
            }
            _ => steady = 0,
        }
        sleep(POLL).await;
    }
}

/// Waits until the connector is neither paused nor stopped.
pub(super) async fn until_not_paused(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<ConnectorStatus, ConnectorError> {
    let is_resumed =
        |status: &ConnectorStatus| !matches!(status.state, State::Paused | State::Stopped);
    until(rest, deadline, steps, is_resumed).await
}

/// Waits until the status satisfies the condition.
pub(super) async fn until(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
    is_reached: impl Fn(&ConnectorStatus) -> bool,
) -> Result<ConnectorStatus, ConnectorError> {
    loop {
        let status = rest.status().await?.ok_or_else(|| rest.missing())?;
        steps.doing(&status.summary());
        if is_reached(&status) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(rest.not_running(Some(status)));
        }
        sleep(POLL).await;
    }
}
