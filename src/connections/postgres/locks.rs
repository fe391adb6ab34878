//! Lock timeouts for statements that take locks, because a statement that waits for a lock
//! blocks all later statements on the same table.

use std::{fmt, time::Duration};

use tokio_postgres::error::SqlState;

use super::{Client, PostgresError};

/// How long a statement may wait for a lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The holder of a lock on a table, as far as the role may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    pub role: String,
    pub application: String,
    /// `idle in transaction`, `active` …
    pub state: String,
    /// Age of its transaction.
    pub seconds: i64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)?;
        let known = [
            ("role ", &self.role),
            ("", &self.application),
            ("", &self.state),
        ];
        let known: Vec<String> = known
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(kind, text)| format!("{kind}{text}"))
            .collect();
        if !known.is_empty() {
            write!(f, " ({})", known.join(", "))?;
        }
        write!(f, ", in a transaction for {} s", self.seconds)
    }
}

/// Makes every statement of this connection fail after waiting for a lock for [`LOCK_TIMEOUT`].
///
/// # Errors
/// If Postgres does not respond.
pub async fn with_lock_timeout(client: &Client) -> Result<(), PostgresError> {
    let set = format!("SET lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    client.batch_execute(&set).await
}

/// Returns true if a statement failed because another session holds a lock.
#[must_use]
pub fn is_lock_timeout(error: &PostgresError) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Returns the session with the oldest transaction that holds a lock on one of these tables,
/// together with the table. Earlier tables in the list take precedence. Returns `None` if no
/// other session holds a lock.
///
/// # Errors
/// If Postgres does not respond.
pub async fn holder_of(
    client: &Client,
    tables: &[String],
) -> Result<Option<(String, Holder)>, PostgresError> {
    let sql = "
        SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
            coalesce(a.state, ''),
            coalesce(extract(epoch FROM now() - a.xact_start), 0)::bigint, named.name
        FROM unnest($1::text[]) WITH ORDINALITY AS named (name, place)
        JOIN pg_locks l ON l.relation = to_regclass(named.name)
        JOIN pg_stat_activity a USING (pid)
        WHERE l.granted AND a.pid <> pg_backend_pid()
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY named.place, a.xact_start NULLS LAST LIMIT 1";
    let Some(row) = client.query_opt(sql, &[&tables]).await? else {
        return Ok(None);
    };
    let holder = Holder {
        pid: row.try_get(0)?,
        role: row.try_get(1)?,
        application: row.try_get(2)?,
        state: row.try_get(3)?,
        seconds: row.try_get(4)?,
    };
    Ok(Some((row.try_get(5)?, holder)))
}
