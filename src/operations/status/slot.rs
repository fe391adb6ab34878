//! Status of the connector's replication slot, which makes Postgres retain its log.

use serde::Serialize;

use crate::{
    connections::{Connections, postgres},
    failure::chain,
    runtime::worker_status::TIMEOUT,
    source::connector,
};

/// Status of a replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    pub name: String,
    /// Whether a client reads from it.
    pub active: bool,
    /// Whether the connector is connected to Postgres although the slot is inactive, as
    /// during a snapshot. `None` if the slot is active or this is unknown.
    #[serde(skip)]
    pub connected: Option<bool>,
    /// Bytes of log written since the last confirmed position.
    pub lag_bytes: Option<i64>,
    /// Availability of the log that the slot needs: `reserved`, `extended`,
    /// `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

const QUERY: &str = "
    SELECT active, wal_status,
           pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
    FROM pg_replication_slots WHERE slot_name = $1";

/// Returns the status of the slot, or `None` if the slot does not exist.
pub(super) async fn status(connections: &Connections) -> Result<Option<SlotStatus>, String> {
    let name = connections.settings().connector.slot.clone();
    let query = async {
        let client = connections.postgres.connect().await?;
        client.query_opt(QUERY, &[&name]).await
    };
    let row = match tokio::time::timeout(TIMEOUT, query).await {
        Ok(row) => row.map_err(|error| chain(&error))?,
        Err(_) => return Err(format!("no response within {} s", TIMEOUT.as_secs())),
    };
    let parse = |row: postgres::Row| {
        Ok(SlotStatus {
            name: name.clone(),
            active: row.try_get(0)?,
            wal_status: row.try_get(1)?,
            connected: None,
            lag_bytes: row.try_get(2)?,
        })
    };
    let parsed = row.map(parse).transpose();
    let mut slot = parsed.map_err(|error: postgres::PostgresError| chain(&error))?;
    if let Some(slot) = slot.as_mut().filter(|slot| !slot.active) {
        let check = connector::is_connected(connections);
        let result = tokio::time::timeout(TIMEOUT, check).await;
        slot.connected = result.ok().flatten();
    }
    Ok(slot)
}
