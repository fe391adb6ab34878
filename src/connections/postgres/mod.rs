//! PostgreSQL, through tokio-postgres.

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

use super::{Auth, Connection, Tls};
use crate::secret::{Secret, SecretUrl};

/// The default user and database of a URL.
const DEFAULT_USER: &str = "postgres";

/// Timeout of connecting, including the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a statement. The server cancels it after this time; if the server hangs, the
/// client gives up a little later.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(10);

/// Additional time for the answer to a cancelled statement.
const GRACE: Duration = Duration::from_secs(10);

/// Sets the session's statement timeout, unless a shorter one is configured for the role or the
/// database.
const SET_TIMEOUT: &str = "SELECT set_config('statement_timeout', $1, false) FROM pg_settings
    WHERE name = 'statement_timeout' AND (setting::bigint = 0 OR setting::bigint > $2)";

/// Parts of a Postgres URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    pub database: String,
}

/// Error for an invalid Postgres URL.
#[derive(Debug, thiserror::Error)]
#[error("invalid Postgres URL `{url}`: {reason}")]
pub struct InvalidUrl {
    url: SecretUrl,
    reason: String,
}

impl InvalidUrl {
    /// Hides the parser's reason if it may contain a secret. The parser repeats the text that
    /// it took for an option's name, which may be part of the password. The text is shown only
    /// if the masked URL also shows it.
    fn new(url: &SecretUrl, error: &PostgresError) -> Self {
        let mut reason = crate::failure::chain(error);
        if let Some((_, option)) = reason.split_once("unknown option `")
            && !url.to_string().contains(option.trim_end_matches('`'))
        {
            "expected postgres://user:password@host:port/database".clone_into(&mut reason);
        }
        Self {
            url: url.clone(),
            reason,
        }
    }
}

/// Parses a URL with the client's own parser, so that both interpret it identically.
///
/// # Errors
/// If the URL is malformed.
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
        // Without a user, the client would use the name of the operating system's user.
        config.user(DEFAULT_USER);
    }
    Ok(config)
}

/// Returns true if no server responded or the connection broke, as opposed to an error from the
/// server.
#[must_use]
pub fn is_unreachable(error: &PostgresError) -> bool {
    error.as_db_error().is_none()
}

/// Returns true if the server refuses the user or the password.
#[must_use]
pub fn is_denied(error: &PostgresError) -> bool {
    let code = error.code();
    code == Some(&SqlState::INVALID_PASSWORD)
        || code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// Error while executing a statement.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(transparent)]
    Driver(#[from] tokio_postgres::Error),
    #[error("no response within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl PostgresError {
    /// Returns the server's error, if it responded with one.
    #[must_use]
    pub fn as_db_error(&self) -> Option<&DbError> {
        match self {
            Self::Driver(error) => error.as_db_error(),
            Self::TimedOut(_) => None,
        }
    }

    /// Returns the code of the server's error, if it responded with one.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.as_db_error().map(DbError::code)
    }
}

/// One row of a result.
#[derive(Debug)]
pub struct Row(tokio_postgres::Row);

impl Deref for Row {
    type Target = tokio_postgres::Row;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Row {
    /// Returns the value of a column, by number or by name.
    ///
    /// # Errors
    /// If the column does not exist or has another type.
    pub fn try_get<'a, I, T>(&'a self, column: I) -> Result<T, PostgresError>
    where
        I: RowIndex + std::fmt::Display,
        T: FromSql<'a>,
    {
        Ok(self.0.try_get(column)?)
    }
}

/// A connection whose statements all have a deadline.
#[derive(Debug)]
pub struct Client {
    inner: tokio_postgres::Client,
    timeout: Duration,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Client {
    /// Returns all rows of the result.
    ///
    /// # Errors
    /// If the server refuses the statement or does not respond in time.
    pub async fn query<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PostgresError> {
        let rows = self.inner.query(statement, parameters);
        let rows = bounded(self.timeout, rows).await?;
        Ok(rows.into_iter().map(Row).collect())
    }

    /// Returns the only row of the result.
    ///
    /// # Errors
    /// See [`Self::query`]. Also if there is not exactly one row.
    pub async fn query_one<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Row, PostgresError> {
        let row = self.inner.query_one(statement, parameters);
        Ok(Row(bounded(self.timeout, row).await?))
    }

    /// Returns the row of the result, if there is one.
    ///
    /// # Errors
    /// See [`Self::query`]. Also if there are several rows.
    pub async fn query_opt<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, PostgresError> {
        let row = self.inner.query_opt(statement, parameters);
        Ok(bounded(self.timeout, row).await?.map(Row))
    }

    /// Executes a statement. Returns the number of rows that it changed.
    ///
    /// # Errors
    /// See [`Self::query`].
    pub async fn execute<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: Parameters<'_>,
    ) -> Result<u64, PostgresError> {
        bounded(self.timeout, self.inner.execute(statement, parameters)).await
    }

    /// Executes several statements.
    ///
    /// # Errors
    /// See [`Self::query`].
    pub async fn batch_execute(&self, statements: &str) -> Result<(), PostgresError> {
        bounded(self.timeout, self.inner.batch_execute(statements)).await
    }

    /// Prepares a statement that is executed several times.
    ///
    /// # Errors
    /// See [`Self::query`].
    pub async fn prepare(&self, statement: &str) -> Result<Statement, PostgresError> {
        bounded(self.timeout, self.inner.prepare(statement)).await
    }

    /// Starts a `COPY … FROM STDIN`. The server's timeout bounds the whole copy.
    ///
    /// # Errors
    /// See [`Self::query`].
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<CopyInSink<U>, PostgresError>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        bounded(self.timeout, self.inner.copy_in(statement)).await
    }
}

/// Waits for a response, or returns [`PostgresError::TimedOut`], so that a server that hangs
/// does not block its callers.
async fn bounded<T>(
    limit: Duration,
    response: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PostgresError> {
    match timeout(limit, response).await {
        Ok(response) => Ok(response?),
        Err(_) => Err(PostgresError::TimedOut(limit)),
    }
}

/// A database and the credentials for it. Each client has its own connection.
#[derive(Debug, Clone)]
pub struct Postgres(pub(crate) Connection);

impl Postgres {
    /// Returns the database of this connection. Nothing is sent yet.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Connects, and drives the connection in the background until the client is dropped.
    ///
    /// # Errors
    /// If the URL is malformed, no server listens, or the credentials are wrong.
    pub async fn connect(&self) -> Result<Client, PostgresError> {
        open(self.config()?, CONNECT_TIMEOUT, STATEMENT_TIMEOUT).await
    }

    /// Connects to the same database as another user.
    ///
    /// # Errors
    /// See [`Self::connect`].
    pub async fn connect_as(&self, user: &str, password: &str) -> Result<Client, PostgresError> {
        let mut config = self.config()?;
        config.user(user).password(password);
        open(config, CONNECT_TIMEOUT, STATEMENT_TIMEOUT).await
    }

    /// Executes a real query, so that a server still in recovery does not count as ready.
    ///
    /// # Errors
    /// See [`Self::connect`]. Also if the query fails.
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

/// Connects within `connect_timeout`. Each statement then has the timeout `deadline`.
async fn open(
    mut config: tokio_postgres::Config,
    connect_timeout: Duration,
    deadline: Duration,
) -> Result<Client, PostgresError> {
    config
        .application_name("fanout")
        .connect_timeout(connect_timeout);
    let (inner, connection) = bounded(connect_timeout, config.connect(NoTls)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a postgres connection ended");
        }
    });
    let client = Client {
        inner,
        timeout: deadline + GRACE,
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
    async fn connecting_to_a_server_that_never_responds_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("postgres://app:app@127.0.0.1:{port}/app");
        let connect_timeout = Duration::from_millis(50);
        let config = url.parse().expect("a URL");
        let error = open(config, connect_timeout, STATEMENT_TIMEOUT).await;
        let error = error.expect_err("the server never responds");
        assert!(matches!(error, PostgresError::TimedOut(_)), "{error}");
        assert!(is_unreachable(&error));
    }
}
