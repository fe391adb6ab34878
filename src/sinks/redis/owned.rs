//! What fanout owns in Redis: the keys of the board.

use std::future::ready;

use futures_util::future::BoxFuture;

use super::BoardKeys;
use crate::{
    config::{Settings, project::Project},
    connections::{
        Connections,
        redis::{Redis, RedisError},
    },
    stack::owned::{Change, ExternalError, Object, Owned, OwnedError, Removal, Removing, Upcoming},
};

const SERVICE: &str = "redis";

/// The objects in Redis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RedisObjects;

impl Owned for RedisObjects {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn removal(&self) -> Removal {
        Removal::Last
    }

    fn objects<'a>(
        &'a self,
        connections: &'a Connections,
        _project: &'a Project,
    ) -> BoxFuture<'a, Result<Vec<Object>, OwnedError>> {
        Box::pin(objects(connections))
    }

    fn changes<'a>(&'a self, up: Upcoming<'a>) -> BoxFuture<'a, Result<Vec<Change>, OwnedError>> {
        let changes: Result<Vec<Change>, OwnedError> = Ok(changes(up));
        Box::pin(ready(changes))
    }

    fn remove<'a>(
        &'a self,
        objects: &'a [Object],
        reset: Removing<'a>,
    ) -> BoxFuture<'a, Result<(), OwnedError>> {
        Box::pin(remove(objects, &reset.connections.redis))
    }
}

fn external(error: RedisError) -> OwnedError {
    ExternalError::server(SERVICE, error).into()
}

async fn objects(connections: &Connections) -> Result<Vec<Object>, OwnedError> {
    let keys = keys(connections.settings());
    let existing = connections.redis.existing(&keys).await.map_err(external)?;
    let objects = existing
        .into_iter()
        .map(|key| Object::new(SERVICE, "key", key));
    Ok(objects.collect())
}

/// The pipeline writes the keys all the time. The operator of an external server
/// consents to that once.
fn changes(up: Upcoming<'_>) -> Vec<Change> {
    let has_agreed = up.blueprint.state.has_agreed(SERVICE);
    if !up.is_external(SERVICE) || !up.includes("pipeline") || has_agreed {
        return Vec::new();
    }
    let keys = keys(&up.blueprint.settings).join(", ");
    vec![Change::new(format!("write the keys {keys}"))]
}

async fn remove(objects: &[Object], redis: &Redis) -> Result<(), OwnedError> {
    let keys: Vec<String> = objects.iter().map(|object| object.name.clone()).collect();
    if !keys.is_empty() {
        redis.delete(&keys).await.map_err(external)?;
    }
    Ok(())
}

fn keys(settings: &Settings) -> [String; 3] {
    let keys = BoardKeys::new(&settings.board.key);
    [keys.board, keys.meta, keys.lease]
}
