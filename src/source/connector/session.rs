//! Checks whether the connector is connected to Postgres. Connect reports a task as running
//! even while the task keeps retrying its login.

use std::time::Duration;

use crate::connections::{Connections, postgres::PostgresError};

/// Timeout of the query.
const TIMEOUT: Duration = Duration::from_secs(5);

/// True if the slot is active or a Debezium session exists. The slot is inactive during a
/// snapshot.
const QUERY: &str = "
    SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active)
        OR EXISTS (SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'Debezium %')";

/// Returns true if the connector is connected, or `None` if Postgres does not respond.
pub async fn is_connected(connections: &Connections) -> Option<bool> {
    let slot = &connections.settings().connector.slot;
    let query = async {
        let client = connections.postgres.connect().await?;
        let row = client.query_one(QUERY, &[slot]).await?;
        row.try_get::<_, bool>(0)
    };
    let result: Result<bool, PostgresError> = tokio::time::timeout(TIMEOUT, query).await.ok()?;
    match result {
        Ok(is_connected) => Some(is_connected),
        Err(error) => {
            tracing::debug!(%error, "cannot check whether the connector is connected");
            None
        }
    }
}
