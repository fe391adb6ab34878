//! Waits until Connect says that the connector is as it was told to be.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    error::ConnectorError,
    rest::Rest,
    session::is_connected,
    status::{ConnectorStatus, State},
};
use crate::{connections::Connections, progress::steps::Steps};

/// Between two looks at the status.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// A task that runs has to do so on so many looks in a row: one that fails at
/// once shows as running for a moment.
const STEADY_LOOKS: u32 = 2;

/// Connect shows a failure of before a restart for a moment after it.
const STALE_FAILURE: Duration = Duration::from_secs(3);

/// Stops the connector and waits until it has no task any more.
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

/// Waits until all tasks run. A failed task is restarted once; one that still fails
/// after that is an error.
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
                if steady >= STEADY_LOOKS {
                    if is_connected(connections).await != Some(false) {
                        return Ok(status);
                    }
                    steps.doing("waiting until it has logged in to postgres");
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

/// Waits until it is neither paused nor stopped.
pub(super) async fn until_not_paused(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<ConnectorStatus, ConnectorError> {
    let moving = |status: &ConnectorStatus| !matches!(status.state, State::Paused | State::Stopped);
    until(rest, deadline, steps, moving).await
}

/// Waits until Connect says that it has reached what it was told to.
pub(super) async fn until(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
    reached: impl Fn(&ConnectorStatus) -> bool,
) -> Result<ConnectorStatus, ConnectorError> {
    loop {
        let status = rest.status().await?.ok_or_else(|| rest.missing())?;
        steps.doing(&status.summary());
        if reached(&status) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(rest.not_running(Some(status)));
        }
        sleep(POLL).await;
    }
}
