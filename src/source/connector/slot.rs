//! The connector's replication slot in Postgres: a check whether it is usable, and its removal
//! if it is lost.

use super::error::ConnectorError;
use crate::{
    config::Settings,
    connections::{
        Connections,
        postgres::{Client, PostgresError},
    },
};

/// Drops the slot if Postgres has removed WAL that the slot needs. A new slot can then have
/// the same name.
pub(super) async fn drop_lost_slot(connections: &Connections) -> Result<(), ConnectorError> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = $1 AND wal_status = 'lost' AND NOT active";
    let client = connect(connections).await?;
    let slot = &connections.settings().connector.slot;
    let rows = client.query(DROP, &[slot]).await;
    rows.map_err(ConnectorError::Postgres)?;
    Ok(())
}

pub(super) async fn connect(connections: &Connections) -> Result<Client, ConnectorError> {
    let client = connections.postgres.connect().await;
    client.map_err(ConnectorError::Postgres)
}

/// Returns true if the slot exists and is not lost. Returns `None` if there is no slot or the
/// query fails.
pub(super) async fn is_usable(client: &Client, settings: &Settings) -> Option<bool> {
    const QUERY: &str = "SELECT wal_status IS DISTINCT FROM 'lost' FROM pg_replication_slots
         WHERE slot_name = $1";
    let row: Result<_, PostgresError> = client.query_opt(QUERY, &[&settings.connector.slot]).await;
    row.ok()??.try_get(0).ok()
}
