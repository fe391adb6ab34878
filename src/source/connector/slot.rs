//! The connector's slot in Postgres: whether it can go on, and its end where it
//! cannot.

use super::error::ConnectorError;
use crate::{
    config::Settings,
    connections::{
        Connections,
        postgres::{Client, PostgresError},
    },
};

/// Removes a slot that has lost its log, so that another can have its name.
pub(super) async fn drop_lost_slot(connections: &Connections) -> Result<(), ConnectorError> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = $1 AND wal_status = 'lost' AND NOT active";
    let client = connect(connections).await?;
    let slot = &connections.settings().connector.slot;
    let dropped = client.query(DROP, &[slot]).await;
    dropped.map_err(ConnectorError::Postgres)?;
    Ok(())
}

pub(super) async fn connect(connections: &Connections) -> Result<Client, ConnectorError> {
    let connected = connections.postgres.connect().await;
    connected.map_err(ConnectorError::Postgres)
}

/// Whether the slot can go on; none where there is no slot, or nobody knows.
pub(super) async fn is_usable(client: &Client, settings: &Settings) -> Option<bool> {
    const LOOK: &str = "SELECT wal_status IS DISTINCT FROM 'lost' FROM pg_replication_slots
         WHERE slot_name = $1";
    let found: Result<_, PostgresError> = client.query_opt(LOOK, &[&settings.connector.slot]).await;
    found.ok()??.try_get(0).ok()
}
