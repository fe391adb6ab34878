//! PostgreSQL, by tokio-postgres.

pub mod catalogue;
mod locks;

use std::{future::Future, ops::Deref, time::Duration};

use bytes::Buf;
use tokio::time::timeout;
use tokio_postgres::{
    NoTls, ToStatement,
    config::Host,
    error::{DbError, SqlState},
    row::RowIndex,
    types::FromSql,
};

pub use locks::{Holder, LOCK_TIMEOUT, holder_of, is_lock_timeout, with_lock_timeout};
pub use tokio_postgres::{CopyInSink, Statement, types::ToSql};

use crate::{
    clients::{Auth, Connection, Tls},
    secret::{Secret, SecretUrl},
};

/// The user and the database of a URL that names none.
const DEFAULT_USER: &str = "postgres";

/// How long connecting may take, login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement may take. The server cancels it after this; one that
/// hangs is given up a little later.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(10);

/// How much longer the answer to a cancelled statement may take.
const GRACE: Duration = Duration::from_secs(10);

/// Gives the session the deadline, unless a stricter one is configured for the
/// role or the database.
const SET_TIMEOUT: &str = "SELECT set_config('statement_timeout', $1, false) FROM pg_settings
    WHERE name = 'statement_timeout' AND (setting::bigint = 0 OR setting::bigint > $2)";

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

/// Why a statement was not executed.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(transparent)]
    Driver(#[from] tokio_postgres::Error),
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl PostgresError {
    /// The server's own error, if it answered with one.
    #[must_use]
    pub fn as_db_error(&self) -> Option<&DbError> {
        match self {
            Self::Driver(error) => error.as_db_error(),
            Self::TimedOut(_) => None,
        }
    }

    /// The server's code for its error, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.as_db_error().map(DbError::code)
    }
}

/// One row of an answer.
#[derive(Debug)]
pub struct Row(tokio_postgres::Row);

impl Deref for Row {
    type Target = tokio_postgres::Row;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Row {
    /// The value of a column, by number or by name.
    ///
    /// # Errors
    /// When there is no such column, or it is of another type.
    pub fn try_get<'a, I, T>(&'a self, column: I) -> Result<T, PostgresError>
    where
        I: RowIndex + std::fmt::Display,
        T: FromSql<'a>,
    {
        Ok(self.0.try_get(column)?)
    }
}

/// A connection on which every statement has a deadline.
#[derive(Debug)]
pub struct Client {
    inner: tokio_postgres::Client,
    patience: Duration,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Client {
    /// All rows of the answer.
    ///
    /// # Errors
    /// When the server refuses the statement, or does not answer in time.
    pub async fn query<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PostgresError> {
        let rows = self.inner.query(statement, parameters);
        let rows = bounded(self.patience, rows).await?;
        Ok(rows.into_iter().map(Row).collect())
    }

    /// The one row of the answer.
    ///
    /// # Errors
    /// As [`Self::query`], and when there is not exactly one.
    pub async fn query_one<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Row, PostgresError> {
        let row = self.inner.query_one(statement, parameters);
        Ok(Row(bounded(self.patience, row).await?))
    }

    /// The row of the answer, if there is one.
    ///
    /// # Errors
    /// As [`Self::query`], and when there are several.
    pub async fn query_opt<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, PostgresError> {
        let row = self.inner.query_opt(statement, parameters);
        Ok(bounded(self.patience, row).await?.map(Row))
    }

    /// Executes a statement; returns how many rows it changed.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn execute<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<u64, PostgresError> {
        bounded(self.patience, self.inner.execute(statement, parameters)).await
    }

    /// Executes several statements.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn batch_execute(&self, statements: &str) -> Result<(), PostgresError> {
        bounded(self.patience, self.inner.batch_execute(statements)).await
    }

    /// Prepares a statement that is executed several times.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn prepare(&self, statement: &str) -> Result<Statement, PostgresError> {
        bounded(self.patience, self.inner.prepare(statement)).await
    }

    /// Begins a `COPY … FROM STDIN`. The server's own deadline bounds it.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<CopyInSink<U>, PostgresError>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        bounded(self.patience, self.inner.copy_in(statement)).await
    }
}

/// The answer, or [`PostgresError::TimedOut`]: a server that hangs must not
/// hang its callers.
async fn bounded<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PostgresError> {
    match timeout(patience, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(PostgresError::TimedOut(patience)),
    }
}

/// A database, and as whom fanout logs in. Each client that it makes has a
/// connection of its own.
#[derive(Debug, Clone)]
pub struct Postgres(Connection);

impl Postgres {
    /// The database of this connection. Nothing is sent yet.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Connects and drives the connection in the background until the client is
    /// dropped.
    ///
    /// # Errors
    /// When the URL is malformed, nothing listens, or the credentials are wrong.
    pub async fn connect(&self) -> Result<Client, PostgresError> {
        open(self.config()?, CONNECT_TIMEOUT, STATEMENT_TIMEOUT).await
    }

    /// Connects to the same database as somebody else.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_as(&self, user: &str, password: &str) -> Result<Client, PostgresError> {
        let mut config = self.config()?;
        config.user(user).password(password);
        open(config, CONNECT_TIMEOUT, STATEMENT_TIMEOUT).await
    }

    /// A real query, so that a server still in recovery does not count as ready.
    ///
    /// # Errors
    /// As [`Self::connect`], and when the query fails.
    pub async fn ping(&self) -> Result<(), PostgresError> {
        self.connect().await?.query_one("SELECT 1", &[]).await?;
        Ok(())
    }

    fn config(&self) -> Result<tokio_postgres::Config, PostgresError> {
        let Connection {
            url,
            tls: Tls::ByScheme,
            auth: Auth::InUrl,
        } = &self.0;
        config(url)
    }
}

/// Connects within `patience`; each statement then has `deadline`.
async fn open(
    mut config: tokio_postgres::Config,
    patience: Duration,
    deadline: Duration,
) -> Result<Client, PostgresError> {
    config.application_name("fanout").connect_timeout(patience);
    let (inner, connection) = bounded(patience, config.connect(NoTls)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a postgres connection ended");
        }
    });
    let client = Client {
        inner,
        patience: deadline + GRACE,
    };
    let millis = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    client
        .query(SET_TIMEOUT, &[&millis.to_string(), &millis])
        .await?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_accepts_and_never_answers_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("postgres://app:app@127.0.0.1:{port}/app");
        let patience = Duration::from_millis(50);
        let config = url.parse().expect("a URL");
        let error = open(config, patience, STATEMENT_TIMEOUT).await;
        let error = error.expect_err("nobody answers");
        assert!(matches!(error, PostgresError::TimedOut(_)), "{error}");
        assert!(is_unreachable(&error));
    }
}
