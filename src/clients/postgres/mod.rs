//! PostgreSQL, by tokio-postgres.

pub mod catalogue;
mod locks;

use std::time::Duration;

use tokio_postgres::{NoTls, config::Host};

pub use tokio_postgres::{
    Client, Error as PostgresError, Row, RowStream, Statement, Transaction, types::ToSql,
};

pub use locks::{Holder, LOCK_TIMEOUT, holder_of, is_lock_timeout, with_lock_timeout};

use crate::secret::Secret;

/// The parts of a Postgres URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    pub database: String,
}

/// Reads a URL with the client's own parser, so that both mean the same.
///
/// # Errors
/// When the URL is malformed.
pub fn address(url: &str) -> Result<Address, PostgresError> {
    let config: tokio_postgres::Config = url.parse()?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "127.0.0.1".to_owned(),
    };
    let user = config.get_user().unwrap_or("postgres").to_owned();
    let password = config.get_password().unwrap_or_default();
    Ok(Address {
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        password: Secret::new(String::from_utf8_lossy(password)),
        database: config.get_dbname().unwrap_or(&user).to_owned(),
        user,
    })
}

/// Whether no server answered, or it went away: not an answer of the server's.
#[must_use]
pub fn is_unreachable(error: &PostgresError) -> bool {
    error.as_db_error().is_none()
}

/// Connects and drives the connection in the background until the client is
/// dropped.
///
/// # Errors
/// When the URL is malformed, nothing listens, or the credentials are wrong.
pub async fn connect(url: &str) -> Result<Client, PostgresError> {
    open(url.parse()?).await
}

async fn open(mut config: tokio_postgres::Config) -> Result<Client, PostgresError> {
    config
        .application_name("fanout")
        .connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a postgres connection ended");
        }
    });
    Ok(client)
}

/// Connects to the same database as somebody else.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(url: &str, user: &str, password: &str) -> Result<Client, PostgresError> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.user(user).password(password);
    open(config).await
}

/// A real query, so that a server still in recovery does not count as ready.
///
/// # Errors
/// As [`connect`], and when the query fails.
pub async fn ping(url: &str) -> Result<(), PostgresError> {
    connect(url).await?.simple_query("SELECT 1").await?;
    Ok(())
}
