//! What fanout owns in Postgres: the slot, the publication, and the tables that
//! it creates for Debezium. The followed tables belong to the operator and are
//! never removed.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::{
    Consent, Permit, ProvisionError,
    checks::{Code, HELPERS, Statement},
    look, needed, stray_drops,
};
use crate::{
    config::project::Project,
    connections::{
        Connections,
        postgres::{Client, PostgresError},
    },
    failure::{Failure, Kind},
    stack::owned::{Change, ExternalError, Object, Owned, OwnedError, Removal, Removing, Upcoming},
};

const SERVICE: &str = "postgres";

/// Finds the slots and publications of others that may need Debezium's tables.
const SHARED: &str = "
    SELECT 1 FROM pg_replication_slots
    WHERE slot_type = 'logical' AND database = current_database() AND slot_name <> $1
    UNION ALL
    SELECT 1 FROM pg_publication_tables
    WHERE schemaname = 'public' AND tablename = ANY ($3::text[]) AND pubname <> $2
    LIMIT 1";

/// Maximum number of attempts to drop a slot. It stays active for a while after
/// its reader was told to stop.
const SLOT_TRIES: u32 = 40;

/// Pause between two attempts.
const SLOT_PAUSE: Duration = Duration::from_millis(250);

/// The objects in Postgres.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PostgresObjects;

impl Owned for PostgresObjects {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn removal(&self) -> Removal {
        Removal::OneByOne
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
        Box::pin(remove(objects, reset.connections))
    }
}

fn external(error: PostgresError) -> OwnedError {
    ExternalError::server(SERVICE, error).into()
}

async fn objects(connections: &Connections) -> Result<Vec<Object>, OwnedError> {
    existing(connections).await.map_err(external)
}

async fn existing(connections: &Connections) -> Result<Vec<Object>, PostgresError> {
    let settings = connections.settings();
    let (slot, publication) = (&settings.connector.slot, &settings.connector.publication);
    let client = connections.postgres.connect().await?;
    let mut objects = Vec::new();
    let queries = [
        (
            "slot",
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1",
            slot,
        ),
        (
            "publication",
            "SELECT 1 FROM pg_publication WHERE pubname = $1",
            publication,
        ),
    ];
    for (kind, query, name) in queries {
        if client.query_opt(query, &[name]).await?.is_some() {
            objects.push(Object::new(SERVICE, kind, name));
        }
    }
    let helpers: Vec<&str> = HELPERS.to_vec();
    let shared = client
        .query_opt(SHARED, &[slot, publication, &helpers])
        .await?;
    // Another project or connector still needs the tables.
    if shared.is_some() {
        return Ok(objects);
    }
    for table in HELPERS {
        let query = "SELECT 1 WHERE to_regclass('public.' || $1::text) IS NOT NULL";
        if client.query_opt(query, &[&table]).await?.is_some() {
            objects.push(Object::new(SERVICE, "table", table));
        }
    }
    Ok(objects)
}

async fn changes(up: Upcoming<'_>) -> Result<Vec<Change>, OwnedError> {
    required(up).await.map_err(OwnedError::new)
}

async fn required(up: Upcoming<'_>) -> Result<Vec<Change>, ProvisionError> {
    let is_external = up.is_external(SERVICE);
    let permit = Permit {
        is_ours: !is_external,
        consent: &Consent::All,
    };
    let statements = needed(up.connections, permit).await?;
    let mut changes: Vec<Change> = statements.into_iter().map(change).collect();
    // Kafka has the record of the tables that were published.
    if up.is_running("kafka") {
        let drops = stray_drops(up.connections).await?;
        changes.extend(drops.into_iter().map(|drop| Change::new(drop.sql)));
    }
    if up.includes("connect") && is_external {
        let slot = missing_slot(up.connections).await?;
        changes.extend(slot.map(Change::new));
    }
    Ok(changes)
}

fn change(statement: Statement) -> Change {
    let mut change = Change::new(statement.sql);
    if statement.repairs == Some(Code::TableMissing) {
        let table = statement.table.unwrap_or_default();
        let why = format!("{table} was dropped or renamed, and this one is empty");
        change.why = Some(why);
        change.needs_consent = true;
    }
    change
}

/// Describes the slot that the connector will create, if there is none.
///
/// # Errors
/// If Postgres does not respond.
pub(crate) async fn missing_slot(
    connections: &Connections,
) -> Result<Option<String>, ProvisionError> {
    let looked = look(connections, false).await?;
    let slot = &connections.settings().connector.slot;
    let is_missing = looked.catalogue.slot.is_none();
    Ok(is_missing.then(|| format!("create replication slot {slot}")))
}

async fn remove(objects: &[Object], connections: &Connections) -> Result<(), OwnedError> {
    for object in objects {
        drop_object(connections, object).await?;
    }
    Ok(())
}

async fn drop_object(connections: &Connections, object: &Object) -> Result<(), OwnedError> {
    let client = connections.postgres.connect().await.map_err(external)?;
    let name = object.name.replace('"', "\"\"");
    let statement = match object.kind.as_ref() {
        "publication" => format!("DROP PUBLICATION IF EXISTS \"{name}\""),
        "table" => format!("DROP TABLE IF EXISTS public.\"{name}\""),
        _ => return drop_slot(&client, &object.name).await,
    };
    client.batch_execute(&statement).await.map_err(external)
}

async fn drop_slot(client: &Client, name: &str) -> Result<(), OwnedError> {
    for _ in 0..SLOT_TRIES {
        if try_to_drop_slot(client, name).await.map_err(external)? {
            return Ok(());
        }
        sleep(SLOT_PAUSE).await;
    }
    let name = name.to_owned();
    Err(OwnedError::new(SlotBusy { name }))
}

/// Drops the slot if it is inactive. Returns true if it no longer exists.
async fn try_to_drop_slot(client: &Client, name: &str) -> Result<bool, PostgresError> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = $1 AND NOT active";
    const LEFT: &str = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
    client.query(DROP, &[&name]).await?;
    Ok(client.query_opt(LEFT, &[&name]).await?.is_none())
}

/// Error for a slot that does not become inactive.
#[derive(Debug, thiserror::Error)]
#[error("slot {name} is still being read from")]
struct SlotBusy {
    name: String,
}

impl Failure for SlotBusy {
    fn kind(&self) -> Kind {
        Kind::NotReady
    }

    fn code(&self) -> &'static str {
        "slot_busy"
    }

    fn hint(&self) -> Option<String> {
        Some(ExternalError::retry_hint())
    }
}
