//! The Postgres role of fanout and its connector, on a server that fanout manages.
//!
//! The role owns its database and has the replication privilege. It is not a superuser,
//! because a superuser can run programs through `COPY … TO PROGRAM`. The server's superuser
//! is [`SUPERUSER`]. It has no password, which rules out logins over TCP.
//!
//! `stack/postgres.yaml` sets up new databases this way. In a database of an earlier version
//! the role is the superuser that `initdb` created; [`restrict`] changes that.

use crate::{
    assets,
    connections::postgres::{Postgres, PostgresError},
    failure::{Failure, Kind},
};

/// Superuser of the server. `stack/postgres.yaml` and `sql/role` contain the name too.
pub const SUPERUSER: &str = "fanout_superuser";

/// Temporary superuser that [`restrict`] creates to rename the role: a session cannot rename
/// its own role.
const HELPER: &str = "fanout_restrict";

const SCRIPT: &str = "sql/role/restrict.sql";

/// Error while taking superuser rights from the role.
#[derive(Debug, thiserror::Error)]
#[error("cannot take superuser rights from the role of postgres.url")]
pub struct RoleError(#[from] PostgresError);

impl Failure for RoleError {
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    fn code(&self) -> &'static str {
        "postgres_role"
    }

    fn hint(&self) -> Option<String> {
        Some("fanout logs postgres".to_owned())
    }
}

/// Takes superuser rights from the role of `postgres.url`. Returns the role's name, or `None`
/// if it was not a superuser. The server must be managed by fanout.
///
/// # Errors
/// If the server refuses a step. Another attempt can then start from the beginning.
pub async fn restrict(postgres: &Postgres) -> Result<Option<String>, RoleError> {
    let client = postgres.connect().await?;
    let role = "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user";
    let role = client.query_one(role, &[]).await?;
    if !role.try_get::<_, bool>(1)? {
        return Ok(None);
    }
    let role: String = role.try_get(0)?;
    // Only letters and digits, because the password becomes part of a statement.
    let password = uuid::Uuid::new_v4().simple().to_string();
    let create_helper = format!(
        "DROP ROLE IF EXISTS {HELPER}; \
         CREATE ROLE {HELPER} LOGIN SUPERUSER PASSWORD '{password}'"
    );
    client.batch_execute(&create_helper).await?;
    // An error closes this connection, which rolls the transaction back.
    let helper = postgres.connect_as(HELPER, &password).await?;
    // Changing the owner of a table waits for the other sessions' locks.
    helper
        .batch_execute("BEGIN; SET LOCAL lock_timeout = '60s'")
        .await?;
    let name = "SELECT set_config('fanout.role', $1, true)";
    helper.execute(name, &[&role]).await?;
    let script = assets::text(SCRIPT).unwrap_or_default();
    helper.batch_execute(script).await?;
    // The session switches to the server's superuser, so that it can drop the helper.
    let superuser = "SELECT format('SET LOCAL SESSION AUTHORIZATION %I; DROP ROLE fanout_restrict', rolname) \
                     FROM pg_roles WHERE oid = 10";
    let drop_helper: String = helper.query_one(superuser, &[]).await?.try_get(0)?;
    helper.batch_execute(&drop_helper).await?;
    helper.batch_execute("COMMIT").await?;
    Ok(Some(role))
}
