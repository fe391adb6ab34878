//! Whether the connector is connected to Postgres. Connect calls a task running
//! that fails to log in and tries again for as long as it takes.

use std::time::Duration;

use crate::connections::{Connections, postgres::PostgresError};

/// How long Postgres may take to say.
const PATIENCE: Duration = Duration::from_secs(5);

/// The slot is read from, or somebody of the connector's kind is logged in: while
/// it takes a snapshot nobody reads the slot.
const QUERY: &str = "
    SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active)
        OR EXISTS (SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'Debezium %')";

/// Whether it is connected; none where Postgres does not say.
pub async fn is_connected(connections: &Connections) -> Option<bool> {
    let slot = &connections.settings().connector.slot;
    let asked = async {
        let client = connections.postgres.connect().await?;
        let row = client.query_one(QUERY, &[slot]).await?;
        row.try_get::<_, bool>(0)
    };
    let answer: Result<bool, PostgresError> = tokio::time::timeout(PATIENCE, asked).await.ok()?;
    match answer {
        Ok(connected) => Some(connected),
        Err(error) => {
            tracing::debug!(%error, "postgres does not say whether the connector is connected");
            None
        }
    }
}
