//! Management of the connector in Kafka Connect: apply its configuration, read its status,
//! restart, pause, resume, and delete it.

mod desired;
mod error;
pub mod keeper;
mod mend;
pub(crate) mod owned;
mod placeholder;
mod remedy;
mod rest;
mod session;
mod slot;
mod status;
mod wait;

use std::{fs, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use tokio::time::{Instant, sleep};

pub use desired::{Properties, changed, placeholders, properties};
pub use error::ConnectorError;
pub use mend::{plan_repair, repair};
pub use remedy::{SLOT_LOST as SLOT_LOST_REMEDY, remedy as remedy_of};
pub use session::is_connected;
pub use status::{ConnectorStatus, State, TaskStatus, root_cause};

use self::{
    placeholder::Placeholder,
    rest::Rest,
    wait::{POLL, stop, until, until_not_paused, until_running},
};
use super::records::reconfigured;
use crate::{
    config::{Runtime, Settings},
    connections::Connections,
    progress::{Progress, steps::Steps},
    stack::{Site, State as StackState},
    text::template::Values,
};

/// The name under which progress is reported.
const TASK: &str = "connector";

/// Path of the secrets file in Connect's container, as in the service's definition.
const SECRETS_INSIDE: &str = "/etc/fanout/secrets.properties";

/// What `apply` changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Created,
    Updated {
        /// Names of the properties that differed.
        changed: Vec<String>,
        /// Whether someone had changed externally what is delivered. Changes may be missing.
        drifted: bool,
    },
    Unchanged,
}

impl Serialize for Applied {
    /// `{"action": "updated", "changed": ["slot.name"]}`. `changed` is null for the other
    /// actions.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (action, changed) = match self {
            Self::Created => ("created", None),
            Self::Updated { changed, .. } => ("updated", Some(changed)),
            Self::Unchanged => ("unchanged", None),
        };
        let mut fields = serializer.serialize_struct("Applied", 2)?;
        fields.serialize_field("action", action)?;
        fields.serialize_field("changed", &changed)?;
        fields.end()
    }
}

/// Returns the values that override [`placeholders`] in this project. A managed Connect,
/// native or in a container, reads the password and the operator's secret properties from a
/// file, so that its REST API shows only references.
///
/// # Errors
/// If the project's state cannot be read, or the secrets in the settings have changed since
/// Connect was started.
pub fn overrides(site: &Site, settings: &Settings) -> Result<Values, ConnectorError> {
    let dir = site.dir();
    let state = StackState::load(&dir)?;
    let connect = state
        .as_ref()
        .and_then(|state| state.services.get("connect"));
    let secrets_file = match connect.map(|service| service.runtime) {
        Some(Runtime::Native) => {
            let file = dir.conf("connect").join("secrets.properties");
            let secrets = fs::read_to_string(&file).ok();
            if let Some(secrets) = &secrets {
                check_secrets(secrets, settings)?;
            }
            secrets.map(|_| file.display().to_string())
        }
        Some(Runtime::Docker) => Some(SECRETS_INSIDE.to_owned()),
        Some(Runtime::External) | None => None,
    };
    Ok(secrets_file.map_or_else(Values::new, references_into))
}

/// Checks that the file, which `up` wrote for Connect, contains all secrets of the settings.
fn check_secrets(file: &str, settings: &Settings) -> Result<(), ConnectorError> {
    let required = settings.connector.secret_lines();
    let contains = |required: &&str| file.lines().any(|line| line == *required);
    match required.lines().find(|line| !contains(line)) {
        Some(_) => Err(ConnectorError::SecretsChanged),
        None => Ok(()),
    }
}

/// Returns overrides that refer to Connect's secrets file.
fn references_into(secrets_file: String) -> Values {
    let reference = format!("${{file:{secrets_file}:postgres_password}}");
    Values::from([
        ("postgres.password".to_owned(), reference),
        (desired::SECRETS_FILE.to_owned(), secrets_file),
    ])
}

/// Creates or updates the connector from the settings, and waits until it and all of its tasks
/// run. Repeating it changes nothing. `overrides` take precedence over [`placeholders`]. A
/// failed task is restarted once before its failure counts.
///
/// # Errors
/// If Connect is not ready or the tasks do not run within `timeout`, Connect rejects the
/// configuration, a task fails (with its root cause), or the connector is paused.
pub async fn apply(
    connections: &Connections,
    overrides: &Values,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Applied, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    let mut desired = properties(connections.settings(), overrides)?;
    steps.doing("waiting for kafka connect");
    rest.ready(deadline).await?;
    let current = rest.config().await?;
    let placeholder = Placeholder::find(connections, current.as_ref()).await?;
    placeholder.fill(&mut desired);
    let mut applied = compare(&mut desired, current.as_ref(), overrides);
    let mut switch = placeholder
        .announce(&rest, current.as_ref(), deadline, &steps)
        .await?;
    if applied != Applied::Unchanged {
        steps.doing("configuring");
        rest.put_config(&desired, deadline).await?;
        switch.configured().await?;
        // If the record cannot be written, later inspections find the difference.
        let recorded = reconfigured(connections, current.as_ref(), &desired).await;
        match (&mut applied, recorded) {
            (Applied::Updated { drifted, .. }, Ok(has_drifted)) => *drifted = has_drifted,
            (_, Err(error)) => tracing::warn!(%error, "cannot record the new configuration"),
            _ => {}
        }
    }
    switch.finish(&rest, deadline, &steps).await?;
    until_running(connections, &rest, deadline, &steps).await?;
    Ok(applied)
}

/// Returns what [`apply`] would change.
///
/// # Errors
/// If Connect is not ready within `timeout`.
pub async fn plan(
    connections: &Connections,
    overrides: &Values,
    timeout: Duration,
) -> Result<Applied, ConnectorError> {
    let rest = Rest::new(connections)?;
    rest.ready(Instant::now() + timeout).await?;
    let mut desired = properties(connections.settings(), overrides)?;
    let current = rest.config().await?;
    let placeholder = Placeholder::find(connections, current.as_ref()).await?;
    placeholder.fill(&mut desired);
    Ok(compare(&mut desired, current.as_ref(), overrides))
}

/// Returns the change that the current configuration requires.
fn compare(desired: &mut Properties, current: Option<&Properties>, overrides: &Values) -> Applied {
    let Some(current) = current else {
        return Applied::Created;
    };
    desired::keep_references(desired, current, overrides);
    match changed(current, desired) {
        changed if changed.is_empty() => Applied::Unchanged,
        changed => Applied::Updated {
            changed,
            drifted: false,
        },
    }
}

/// Returns the connector's configuration, or `None` if Connect has no such connector.
///
/// # Errors
/// If Connect does not respond.
pub async fn configuration(
    connections: &Connections,
) -> Result<Option<Properties>, ConnectorError> {
    Rest::new(connections)?.config().await
}

/// Returns the connector's status, or `None` if Connect has no such connector.
///
/// # Errors
/// If Connect does not respond.
pub async fn status(connections: &Connections) -> Result<Option<ConnectorStatus>, ConnectorError> {
    Rest::new(connections)?.status().await
}

/// Restarts the connector and all of its tasks and waits until they run.
///
/// # Errors
/// As [`apply`].
pub async fn restart(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<ConnectorStatus, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    rest.ready(deadline).await?;
    rest.restart(false, deadline).await?;
    // Connect reports the old tasks as running until it has stopped them.
    sleep(POLL).await;
    until_running(connections, &rest, deadline, &steps).await
}

/// Restarts the connector or its tasks if any of them has failed. Returns true if so. Does not
/// wait until they run.
///
/// # Errors
/// If Connect does not respond or has no such connector.
pub async fn restart_failed(connections: &Connections) -> Result<bool, ConnectorError> {
    let rest = Rest::new(connections)?;
    let has_failed = match rest.status().await? {
        Some(status) => status.failure().is_some(),
        None => return Err(rest.missing()),
    };
    if has_failed {
        rest.restart(true, Instant::now() + Duration::from_secs(10))
            .await?;
    }
    Ok(has_failed)
}

/// Pauses the connector and waits until it and its tasks are paused. The slot stays, so
/// Postgres retains WAL.
///
/// # Errors
/// If there is no such connector, or it takes longer than `timeout`.
pub async fn pause(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<ConnectorStatus, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    rest.ready(deadline).await?;
    rest.put("pause", deadline).await?;
    until(&rest, deadline, &steps, |status| {
        let tasks = &status.tasks;
        status.state == State::Paused && tasks.iter().all(|task| task.state == State::Paused)
    })
    .await
}

/// Resumes a paused or stopped connector and waits until it runs.
///
/// # Errors
/// As [`apply`].
pub async fn resume(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<ConnectorStatus, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    rest.ready(deadline).await?;
    rest.put("resume", deadline).await?;
    until_not_paused(&rest, deadline, &steps).await?;
    until_running(connections, &rest, deadline, &steps).await
}

/// Deletes the connector. Returns true if there was one. The slot, the publication, the topics
/// and the position in Connect stay.
///
/// # Errors
/// If Connect is not ready within `timeout` or refuses the request.
pub async fn delete(connections: &Connections, timeout: Duration) -> Result<bool, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    rest.ready(deadline).await?;
    match rest.delete(deadline).await {
        Ok(()) => Ok(true),
        Err(ConnectorError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes the connector's position in Connect and a lost slot, so that the connector starts
/// from scratch: with a new slot and an initial snapshot. Rows deleted in the meantime are
/// missing from the snapshot; a reconcile finds them.
///
/// # Errors
/// If there is no such connector, Connect refuses a request, or it takes longer than
/// `timeout`.
pub async fn forget_offsets(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    rest.ready(deadline).await?;
    stop_and_forget(&rest, deadline, &steps).await?;
    slot::drop_lost_slot(connections).await?;
    rest.put("resume", deadline).await?;
    until_not_paused(&rest, deadline, &steps).await?;
    Ok(())
}

/// Stops the connector and deletes its position, which Connect allows only for a stopped
/// connector.
async fn stop_and_forget(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<(), ConnectorError> {
    stop(rest, deadline, steps).await?;
    rest.delete_offsets(deadline).await
}

/// Deletes the connector and its position in Connect. Returns true if there was a connector.
///
/// # Errors
/// If Connect is not ready, refuses a request, or takes longer than `timeout`.
pub async fn erase(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<bool, ConnectorError> {
    let deadline = Instant::now() + timeout;
    let rest = Rest::new(connections)?;
    let steps = Steps::new(progress, TASK);
    rest.ready(deadline).await?;
    if rest.config().await?.is_none() {
        return Ok(false);
    }
    stop_and_forget(&rest, deadline, &steps).await?;
    rest.delete(deadline).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::definition;

    #[test]
    fn the_container_of_connect_has_the_secrets_file_of_the_connector() {
        let services = definition::services().expect("valid definitions");
        let connect = services.iter().find(|service| service.name == "connect");
        let connect = connect.expect("connect is defined");
        let way = connect.container_way(None).expect("a container");
        assert!(way.files.contains_key(SECRETS_INSIDE), "{:?}", way.files);
    }

    #[test]
    fn every_applied_change_has_the_same_keys() {
        let document = |applied| serde_json::to_string(&applied).expect("a document");
        assert_eq!(
            document(Applied::Created),
            r#"{"action":"created","changed":null}"#
        );
        let changed = vec!["slot.name".to_owned()];
        let drifted = false;
        assert_eq!(
            document(Applied::Updated { changed, drifted }),
            r#"{"action":"updated","changed":["slot.name"]}"#
        );
    }
}
