//! The role that fanout and its connector log in as, in a Postgres that fanout
//! runs: it owns its database and may replicate, and is no superuser, who could
//! run programs by `COPY … TO PROGRAM`. The superuser of such a server is
//! [`SUPERUSER`]; it has no password, so nobody can log in as it over TCP.
//!
//! New databases are made that way (`stack/postgres.yaml`). In those of earlier
//! versions the role is the superuser that `initdb` made: [`restrict`] changes
//! that.

use crate::{
    assets,
    connections::postgres::{Postgres, PostgresError},
    failure::{Failure, Kind},
};

/// Owns the server. `stack/postgres.yaml` and `sql/role` name it too.
pub const SUPERUSER: &str = "fanout_superuser";

/// A superuser of one [`restrict`], who renames the role: nobody can do that to
/// the role that they are logged in as.
const HELPER: &str = "fanout_restrict";

const SCRIPT: &str = "sql/role/restrict.sql";

/// Why the role keeps its rights.
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

/// Takes superuser rights from the role of `postgres.url`, if it has them.
/// Returns its name then. The server has to be fanout's own.
///
/// # Errors
/// When the server refuses a step. Nothing is changed then that another attempt
/// does not find.
pub async fn restrict(postgres: &Postgres) -> Result<Option<String>, RoleError> {
    let client = postgres.connect().await?;
    let role = "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user";
    let role = client.query_one(role, &[]).await?;
    if !role.try_get::<_, bool>(1)? {
        return Ok(None);
    }
    let role: String = role.try_get(0)?;
    // Letters and digits: it is written into a statement.
    let password = uuid::Uuid::new_v4().simple().to_string();
    let make = format!(
        "DROP ROLE IF EXISTS {HELPER}; \
         CREATE ROLE {HELPER} LOGIN SUPERUSER PASSWORD '{password}'"
    );
    client.batch_execute(&make).await?;
    // After an error the connection is closed, which rolls everything back.
    let work = postgres.connect_as(HELPER, &password).await?;
    // Tables change hands once nobody else is at work on them.
    work.batch_execute("BEGIN; SET LOCAL lock_timeout = '60s'")
        .await?;
    let name = "SELECT set_config('fanout.role', $1, true)";
    work.execute(name, &[&role]).await?;
    let script = assets::text(SCRIPT).unwrap_or_default();
    work.batch_execute(script).await?;
    // The helper's session becomes that of another superuser, and removes it.
    let superuser = "SELECT format('SET LOCAL SESSION AUTHORIZATION %I; DROP ROLE fanout_restrict', rolname) \
                     FROM pg_roles WHERE oid = 10";
    let leave: String = work.query_one(superuser, &[]).await?.try_get(0)?;
    work.batch_execute(&leave).await?;
    work.batch_execute("COMMIT").await?;
    Ok(Some(role))
}
