//! PostgreSQL, by tokio-postgres.

pub mod catalogue;
mod locks;

use std::time::Duration;

use tokio_postgres::{NoTls, config::Host, error::SqlState};

pub use tokio_postgres::{
    Client, Error as PostgresError, Row, RowStream, Statement, Transaction, types::ToSql,
};

pub use locks::{Holder, LOCK_TIMEOUT, holder_of, is_lock_timeout, with_lock_timeout};

use crate::secret::{Secret, SecretUrl};

/// The user and the database of a URL that names none.
const DEFAULT_USER: &str = "postgres";

/// The parts of a Postgres URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    pub database: String,
}

/// Why a Postgres URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no Postgres URL: {reason}")]
pub struct InvalidUrl {
    url: SecretUrl,
    reason: String,
}

impl InvalidUrl {
    /// The parser repeats what it took for the name of an option, which may be
    /// a part of the password: it is shown only where the masked URL shows it.
    fn new(url: &SecretUrl, error: &PostgresError) -> Self {
        let mut reason = crate::failure::chain(error);
        if let Some((_, option)) = reason.split_once("unknown option `")
            && !url.to_string().contains(option.trim_end_matches('`'))
        {
            "it has to be postgres://user:password@host:port/database".clone_into(&mut reason);
        }
        Self {
            url: url.clone(),
            reason,
        }
    }
}

/// Reads a URL with the client's own parser, so that both mean the same.
///
/// # Errors
/// When the URL is malformed.
pub fn address(url: &SecretUrl) -> Result<Address, InvalidUrl> {
    let config = config(url).map_err(|error| InvalidUrl::new(url, &error))?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "127.0.0.1".to_owned(),
    };
    let user = config.get_user().unwrap_or(DEFAULT_USER).to_owned();
    let password = config.get_password().unwrap_or_default();
    Ok(Address {
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        password: Secret::new(String::from_utf8_lossy(password)),
        database: config.get_dbname().unwrap_or(&user).to_owned(),
        user,
    })
}

fn config(url: &SecretUrl) -> Result<tokio_postgres::Config, PostgresError> {
    let mut config: tokio_postgres::Config = url.reveal().parse()?;
    if config.get_user().is_none() {
        // The client would ask the system who it runs as.
        config.user(DEFAULT_USER);
    }
    Ok(config)
}

/// Whether no server answered, or it went away: not an answer of the server's.
#[must_use]
pub fn is_unreachable(error: &PostgresError) -> bool {
    error.as_db_error().is_none()
}

/// Whether the server refuses the user or the password.
#[must_use]
pub fn is_denied(error: &PostgresError) -> bool {
    let code = error.code();
    code == Some(&SqlState::INVALID_PASSWORD)
        || code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// Connects and drives the connection in the background until the client is
/// dropped.
///
/// # Errors
/// When the URL is malformed, nothing listens, or the credentials are wrong.
pub async fn connect(url: &SecretUrl) -> Result<Client, PostgresError> {
    open(config(url)?).await
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
pub async fn connect_as(
    url: &SecretUrl,
    user: &str,
    password: &str,
) -> Result<Client, PostgresError> {
    let mut config = config(url)?;
    config.user(user).password(password);
    open(config).await
}

/// A real query, so that a server still in recovery does not count as ready.
///
/// # Errors
/// As [`connect`], and when the query fails.
pub async fn ping(url: &SecretUrl) -> Result<(), PostgresError> {
    connect(url).await?.simple_query("SELECT 1").await?;
    Ok(())
}
