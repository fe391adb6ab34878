//! The connector's replication slot: how far behind it holds Postgres's log.

use serde::Serialize;

use crate::{
    connections::{Connections, postgres},
    failure::chain,
    runtime::worker_status::PATIENCE,
    source::connector,
};

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    pub name: String,
    /// Whether somebody reads from it.
    pub active: bool,
    /// Whether the connector is connected to Postgres, where nobody reads from
    /// it: it may be taking a snapshot. None where that is not known.
    #[serde(skip)]
    pub connected: Option<bool>,
    /// Bytes of log written since the position that the reader confirmed.
    pub lag_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`: whether Postgres still
    /// has the log that it needs.
    pub wal_status: Option<String>,
}

const QUERY: &str = "
    SELECT active, wal_status,
           pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
    FROM pg_replication_slots WHERE slot_name = $1";

/// The slot; none where there is none of that name.
pub(super) async fn status(connections: &Connections) -> Result<Option<SlotStatus>, String> {
    let name = connections.settings().connector.slot.clone();
    let asked = async {
        let client = connections.postgres.connect().await?;
        client.query_opt(QUERY, &[&name]).await
    };
    let row = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(row) => row.map_err(|error| chain(&error))?,
        Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    let read = |row: postgres::Row| {
        Ok(SlotStatus {
            name: name.clone(),
            active: row.try_get(0)?,
            wal_status: row.try_get(1)?,
            connected: None,
            lag_bytes: row.try_get(2)?,
        })
    };
    let read = row.map(read).transpose();
    let mut slot = read.map_err(|error: postgres::PostgresError| chain(&error))?;
    if let Some(slot) = slot.as_mut().filter(|slot| !slot.active) {
        let asked = connector::is_connected(connections);
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        slot.connected = answer.ok().flatten();
    }
    Ok(slot)
}
