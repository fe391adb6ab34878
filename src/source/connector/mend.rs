//! A connector that lost what it stood on runs again: registered where it was
//! not, on a new slot and with a new snapshot where the old slot is gone.

use std::time::Duration;

use super::{
    Applied, apply,
    error::ConnectorError,
    forget_offsets, plan,
    slot::{connect, is_usable},
    status,
};
use crate::{connections::Connections, progress::Progress, text::template::Values};

/// Makes the connector run. Returns whether it has begun again with a snapshot
/// of everything.
///
/// # Errors
/// As [`apply`], and when Postgres does not answer.
pub async fn mend(
    connections: &Connections,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<bool, ConnectorError> {
    let client = connect(connections).await?;
    let lost = is_usable(&client, connections.settings()).await != Some(true);
    drop(client);
    let exists = matches!(status(connections).await, Ok(Some(_)));
    let none = Values::new();
    if lost && exists {
        forget_offsets(connections, timeout, progress).await?;
        apply(connections, &none, timeout, progress).await?;
        return Ok(true);
    }
    match apply(connections, &none, timeout, progress).await {
        Err(ConnectorError::SlotLost { .. }) => {
            forget_offsets(connections, timeout, progress).await?;
            apply(connections, &none, timeout, progress).await?;
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
