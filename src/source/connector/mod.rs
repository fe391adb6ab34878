//! The connector's life: applied until it runs, looked at, restarted, paused,
//! resumed, deleted.

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
pub use mend::{mend, to_mend};
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

/// Where a Connect in a container has its secrets, by its definition.
const SECRETS_INSIDE: &str = "/etc/fanout/secrets.properties";

/// What `apply` found to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Created,
    /// With the names of the properties that were not as they should be.
    Updated {
        changed: Vec<String>,
        /// Somebody else had changed what it delivers: changes may be missing.
        drifted: bool,
    },
    Unchanged,
}

impl Serialize for Applied {
    /// `{"action": "updated", "changed": ["slot.name"]}`; null where nothing
    /// was there to change.
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

/// What lies over [`placeholders`] in this project: a Connect of ours, process
/// or container, reads the password and the operator's secret properties from a
/// file of its own, so that its REST shows references instead.
///
/// # Errors
/// When the project's state is there and cannot be read, or Connect was started
/// with other secrets than the settings have now.
pub fn overrides(site: &Site, settings: &Settings) -> Result<Values, ConnectorError> {
    let dir = site.dir();
    let state = StackState::load(&dir)?;
    let connect = state
        .as_ref()
        .and_then(|state| state.services.get("connect"));
    let secrets = match connect.map(|known| known.runtime) {
        Some(Runtime::Native) => {
            let file = dir.conf("connect").join("secrets.properties");
            let known = fs::read_to_string(&file).ok();
            if let Some(known) = &known {
                check_secrets(known, settings)?;
            }
            known.map(|_| file.display().to_string())
        }
        Some(Runtime::Docker) => Some(SECRETS_INSIDE.to_owned()),
        Some(Runtime::External) | None => None,
    };
    Ok(secrets.map_or_else(Values::new, references_into))
}

/// Connect reads only the secrets that `up` wrote into its file.
fn check_secrets(file: &str, settings: &Settings) -> Result<(), ConnectorError> {
    let wanted = settings.connector.secret_lines();
    let has = |wanted: &&str| file.lines().any(|line| line == *wanted);
    match wanted.lines().find(|line| !has(line)) {
        Some(_) => Err(ConnectorError::SecretsChanged),
        None => Ok(()),
    }
}

/// What refers to a file that Connect reads: the password, and the operator's
/// own secret properties.
fn references_into(secrets: String) -> Values {
    let reference = format!("${{file:{secrets}:postgres_password}}");
    Values::from([
        ("postgres.password".to_owned(), reference),
        (desired::SECRETS_FILE.to_owned(), secrets),
    ])
}

/// Makes the connector what the settings say, and waits until it and all of
/// its tasks run. Again: changes nothing. `overrides` lays over
/// [`placeholders`]. A failed task is restarted once before its failure counts.
///
/// # Errors
/// When Connect is not ready or the tasks do not run within `timeout`, Connect
/// refuses the configuration, a task fails (with its root cause), or the
/// connector was paused.
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
    let mut applied = compared(&mut desired, current.as_ref(), overrides);
    let announced = placeholder.announce(&rest, current.as_ref(), deadline, &steps);
    let mut switch = announced.await?;
    if applied != Applied::Unchanged {
        steps.doing("configuring");
        rest.put_config(&desired, deadline).await?;
        switch.configured().await?;
        // Where it cannot be kept, later looks find the difference.
        let kept = reconfigured(connections, current.as_ref(), &desired).await;
        match (&mut applied, kept) {
            (Applied::Updated { drifted, .. }, Ok(found)) => *drifted = found,
            (_, Err(error)) => tracing::warn!(%error, "the new configuration is not on record"),
            _ => {}
        }
    }
    switch.finish(&rest, deadline, &steps).await?;
    until_running(connections, &rest, deadline, &steps).await?;
    Ok(applied)
}

/// What `apply` would do, without doing it.
///
/// # Errors
/// When Connect does not answer within `timeout`.
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
    Ok(compared(&mut desired, current.as_ref(), overrides))
}

/// What has to be done to a connector that is configured like this.
fn compared(desired: &mut Properties, current: Option<&Properties>, overrides: &Values) -> Applied {
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

/// What Connect has the connector configured with; none where it has no such
/// connector.
///
/// # Errors
/// When Connect does not answer.
pub async fn configuration(
    connections: &Connections,
) -> Result<Option<Properties>, ConnectorError> {
    Rest::new(connections)?.config().await
}

/// What Connect says of the connector; none where it has no such connector.
///
/// # Errors
/// When Connect does not answer.
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
    // The old tasks still show as running until Connect has stopped them.
    sleep(POLL).await;
    until_running(connections, &rest, deadline, &steps).await
}

/// Restarts only what has failed; says whether there was anything. Does not
/// wait. For a pipeline that watches over its connector.
///
/// # Errors
/// When Connect does not answer or has no such connector.
pub async fn restart_failed(connections: &Connections) -> Result<bool, ConnectorError> {
    let rest = Rest::new(connections)?;
    let failed = match rest.status().await? {
        Some(status) => status.failure().is_some(),
        None => return Err(rest.missing()),
    };
    if failed {
        rest.restart(true, Instant::now() + Duration::from_secs(10))
            .await?;
    }
    Ok(failed)
}

/// Pauses the connector and waits until it and its tasks say so. It keeps its
/// slot, so Postgres keeps its log.
///
/// # Errors
/// When there is no such connector, or it takes longer than `timeout`.
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

/// Removes the connector; says whether there was one. Slot, publication,
/// topics and the position that Connect keeps stay.
///
/// # Errors
/// When Connect is not ready within `timeout` or refuses.
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

/// Makes Connect forget the connector's position, so that it begins again with
/// a snapshot on a slot of its own: the mend for a slot that is gone. What was
/// deleted in between is in no snapshot; a reconcile finds it.
///
/// # Errors
/// When there is no such connector, Connect refuses, or it takes longer than
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

/// Only a stopped connector's position can be deleted.
async fn stop_and_forget(
    rest: &Rest,
    deadline: Instant,
    steps: &Steps<'_>,
) -> Result<(), ConnectorError> {
    stop(rest, deadline, steps).await?;
    rest.delete_offsets(deadline).await
}

/// Removes the connector and the position that Connect keeps for it; says
/// whether there was one.
///
/// # Errors
/// When Connect is not ready, refuses, or takes longer than `timeout`.
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
    fn a_connect_in_a_container_has_its_secrets_where_the_connector_looks() {
        let all = definition::services().expect("valid definitions");
        let connect = all.iter().find(|one| one.name == "connect").expect("it");
        let way = connect.container_way(None).expect("a container");
        assert!(way.files.contains_key(SECRETS_INSIDE), "{:?}", way.files);
    }

    #[test]
    fn what_was_applied_has_every_key() {
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
