//! What fanout owns in Kafka Connect: the connector, and the position that
//! Connect stores for it.

use futures_util::future::BoxFuture;

use super::{Applied, ConnectorError, erase, overrides, plan, status};
use crate::{
    config::project::Project,
    connections::Connections,
    stack::owned::{Change, Object, Owned, OwnedError, Removal, Removing, Upcoming},
};

const SERVICE: &str = "connect";

/// The objects in Kafka Connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectObjects;

impl Owned for ConnectObjects {
    fn service(&self) -> &'static str {
        SERVICE
    }

    /// Kafka, in which Connect stores the position, must still be running.
    fn removal(&self) -> Removal {
        Removal::BeforeStop
    }

    fn objects<'a>(
        &'a self,
        connections: &'a Connections,
        _project: &'a Project,
    ) -> BoxFuture<'a, Result<Vec<Object>, OwnedError>> {
        Box::pin(objects(connections))
    }

    fn changes<'a>(&'a self, up: Upcoming<'a>) -> BoxFuture<'a, Result<Vec<Change>, OwnedError>> {
        Box::pin(changes(up))
    }

    fn remove<'a>(
        &'a self,
        objects: &'a [Object],
        reset: Removing<'a>,
    ) -> BoxFuture<'a, Result<(), OwnedError>> {
        Box::pin(remove(objects, reset))
    }
}

async fn objects(connections: &Connections) -> Result<Vec<Object>, OwnedError> {
    let found = status(connections).await.map_err(OwnedError::new)?;
    let objects = found
        .into_iter()
        .map(|status| Object::new(SERVICE, "connector", status.name));
    Ok(objects.collect())
}

/// In a Connect that fanout runs, the connector needs no review.
async fn changes(up: Upcoming<'_>) -> Result<Vec<Change>, OwnedError> {
    if !up.is_external(SERVICE) {
        return Ok(Vec::new());
    }
    let change = change(up).await.map_err(OwnedError::new)?;
    Ok(change.into_iter().map(Change::new).collect())
}

/// Removes the connector that the settings name. There is no other.
async fn remove(objects: &[Object], reset: Removing<'_>) -> Result<(), OwnedError> {
    if !objects.is_empty() {
        let erased = erase(reset.connections, reset.timeout, reset.progress);
        erased.await.map_err(OwnedError::new)?;
    }
    Ok(())
}

/// Describes what `up` would do to the connector, if anything.
///
/// # Errors
/// If Connect does not respond in time, or was started with other secrets than
/// the settings have now.
pub(crate) async fn change(up: Upcoming<'_>) -> Result<Option<String>, ConnectorError> {
    let settings = &up.blueprint.settings;
    let overrides = overrides(up.site, settings)?;
    let planned = plan(up.connections, &overrides, up.timeout).await?;
    let name = &settings.connector.name;
    Ok(match planned {
        Applied::Unchanged => None,
        Applied::Created => Some(format!("create connector {name}")),
        Applied::Updated { changed, .. } => {
            let changed = changed.join(", ");
            Some(format!("update connector {name}: {changed}"))
        }
    })
}
