//! A connector that lost what it stood on runs again: registered where it was
//! not, on a new slot and with a new snapshot where the old slot is gone.

use std::time::Duration;

use super::{Applied, ConnectorError, apply, forget_offsets, plan, status};
use crate::{
    clients::postgres::{self, Client, PostgresError},
    config::Settings,
    progress::Progress,
    template::Values,
};

/// Makes the connector run. Returns whether it has begun again with a snapshot
/// of everything.
///
/// # Errors
/// As [`apply`], and when Postgres does not answer.
pub async fn mend(
    settings: &Settings,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<bool, ConnectorError> {
    let client = connect(settings).await?;
    let lost = slot(&client, settings).await != Some(true);
    drop(client);
    let exists = matches!(status(settings).await, Ok(Some(_)));
    let none = Values::new();
    if lost && exists {
        forget_offsets(settings, timeout, progress).await?;
        apply(settings, &none, timeout, progress).await?;
        return Ok(true);
    }
    match apply(settings, &none, timeout, progress).await {
        Err(ConnectorError::SlotLost { .. }) => {
            forget_offsets(settings, timeout, progress).await?;
            apply(settings, &none, timeout, progress).await?;
            Ok(true)
        }
        applied => applied.map(|_| false),
    }
}

/// What [`mend`] would alter at Connect, and in Postgres.
///
/// # Errors
/// When Connect or Postgres does not answer.
pub async fn to_mend(
    settings: &Settings,
    timeout: Duration,
) -> Result<(Vec<String>, Vec<String>), ConnectorError> {
    let client = connect(settings).await?;
    let usable = slot(&client, settings).await;
    drop(client);
    let (name, slot) = (&settings.connector.name, &settings.connector.slot);
    let (mut at_connect, mut at_postgres) = (Vec::new(), Vec::new());
    match plan(settings, &Values::new(), timeout).await? {
        Applied::Created => at_connect.push(format!("create connector {name}")),
        Applied::Updated { changed, .. } => {
            let changed = changed.join(", ");
            at_connect.push(format!("update connector {name}: {changed}"));
        }
        Applied::Unchanged => {}
    }
    if usable == Some(true) {
        return Ok((at_connect, at_postgres));
    }
    if matches!(status(settings).await, Ok(Some(_))) {
        at_connect.push(format!(
            "stop connector {name}, delete its position, and resume it"
        ));
    }
    if usable == Some(false) {
        at_postgres.push(format!("drop replication slot {slot}"));
    }
    at_postgres.push(format!("create replication slot {slot}"));
    Ok((at_connect, at_postgres))
}

/// Removes a slot that has lost its log, so that another can have its name.
pub(super) async fn drop_lost_slot(settings: &Settings) -> Result<(), ConnectorError> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = $1 AND wal_status = 'lost' AND NOT active";
    let client = connect(settings).await?;
    let dropped = client.query(DROP, &[&settings.connector.slot]).await;
    dropped.map_err(ConnectorError::Postgres)?;
    Ok(())
}

async fn connect(settings: &Settings) -> Result<Client, ConnectorError> {
    let connected = postgres::connect(&settings.postgres.url).await;
    connected.map_err(ConnectorError::Postgres)
}

/// Whether the slot can go on; none where there is no slot, or nobody knows.
async fn slot(client: &Client, settings: &Settings) -> Option<bool> {
    const LOOK: &str = "SELECT wal_status IS DISTINCT FROM 'lost' FROM pg_replication_slots
         WHERE slot_name = $1";
    let found: Result<_, PostgresError> = client.query_opt(LOOK, &[&settings.connector.slot]).await;
    found.ok()??.try_get(0).ok()
}
