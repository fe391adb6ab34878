//! Repairs the connector: registers it if it is missing, and gives it a new slot and a new
//! snapshot if its slot is lost.

use std::time::Duration;

use super::{
    Applied, apply,
    error::ConnectorError,
    forget_offsets, plan,
    slot::{connect, is_usable},
    status,
};
use crate::{connections::Connections, progress::Progress, text::template::Values};

/// Makes the connector run. Returns true if it has started from scratch with an initial
/// snapshot.
///
/// # Errors
/// As [`apply`], and if Postgres does not respond.
pub async fn repair(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<bool, ConnectorError> {
    let client = connect(connections).await?;
    let is_lost = is_usable(&client, connections.settings()).await != Some(true);
    drop(client);
    let exists = matches!(status(connections).await, Ok(Some(_)));
    let overrides = Values::new();
    if is_lost && exists {
        forget_offsets(connections, timeout, progress).await?;
        apply(connections, &overrides, timeout, progress).await?;
        return Ok(true);
    }
    match apply(connections, &overrides, timeout, progress).await {
        Err(ConnectorError::SlotLost { .. }) => {
            forget_offsets(connections, timeout, progress).await?;
            apply(connections, &overrides, timeout, progress).await?;
            Ok(true)
        }
        applied => applied.map(|_| false),
    }
}

/// Returns the changes that [`repair`] would make: first in Connect, then in Postgres.
///
/// # Errors
/// If Connect or Postgres does not respond.
pub async fn plan_repair(
    connections: &Connections,
    timeout: Duration,
) -> Result<(Vec<String>, Vec<String>), ConnectorError> {
    let settings = connections.settings();
    let client = connect(connections).await?;
    let usable = is_usable(&client, settings).await;
    drop(client);
    let (name, slot) = (&settings.connector.name, &settings.connector.slot);
    let (mut at_connect, mut at_postgres) = (Vec::new(), Vec::new());
    match plan(connections, &Values::new(), timeout).await? {
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
    if matches!(status(connections).await, Ok(Some(_))) {
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
