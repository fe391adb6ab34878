//! Client for ClickHouse over HTTP, based on the clickhouse crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use clickhouse::insert::Insert;
use percent_encoding::percent_decode_str;

use super::{Auth, Connection, Tls};
use crate::secret::{Secret, SecretUrl};

/// Address and credentials of a ClickHouse server, parsed from
/// `http://user:password@host:port`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URL without credentials.
    pub url: String,
    pub user: String,
    pub password: Secret,
}

/// Why a ClickHouse URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is not a ClickHouse URL: {reason}")]
pub struct InvalidUrl {
    url: SecretUrl,
    reason: String,
}

/// Errors of the client crate.
pub use clickhouse::error::Error as ClickHouseError;

impl Endpoint {
    /// Parses a URL. Ignores its query and fragment, because the client sends its own
    /// query.
    ///
    /// # Errors
    /// If the URL is invalid, or its scheme is not HTTP or HTTPS.
    pub fn at(url: &SecretUrl) -> Result<Self, InvalidUrl> {
        let invalid = |reason: String| InvalidUrl {
            url: url.clone(),
            reason,
        };
        let mut parsed =
            url::Url::parse(url.reveal()).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid("its scheme must be http or https".to_owned()));
        }
        // In the credentials of a URL, `!` may be written as `%21`, and `@` must be
        // written as `%40`.
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(parsed.username());
        let password = Secret::new(decoded(parsed.password().unwrap_or_default()));
        let no_host = |()| invalid("it has no host".to_owned());
        parsed.set_username("").map_err(no_host)?;
        parsed.set_password(None).map_err(no_host)?;
        parsed.set_query(None);
        parsed.set_fragment(None);
        Ok(Self {
            url: parsed.as_str().trim_end_matches('/').to_owned(),
            user,
            password,
        })
    }

    /// Returns a client without a default database.
    pub(crate) fn client(&self) -> clickhouse::Client {
        let client = clickhouse::Client::default()
            .with_url(&self.url)
            .with_compression(clickhouse::Compression::None);
        if self.user.is_empty() {
            return client;
        }
        client
            .with_user(&self.user)
            .with_password(self.password.reveal())
    }
}

/// A ClickHouse server and fanout's database on it. The URL is parsed when a client is
/// created. Nothing is sent before the client is used.
#[derive(Debug, Clone)]
pub struct ClickHouse {
    pub(crate) connection: Connection,
    pub(crate) database: String,
}

impl ClickHouse {
    /// Returns the database of this name on the server of this connection.
    #[must_use]
    pub fn new(connection: Connection, database: &str) -> Self {
        Self {
            connection,
            database: database.to_owned(),
        }
    }

    /// Returns the server, for statements that name their database.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn server(&self) -> Result<Server, InvalidUrl> {
        Server::new(&self.connection)
    }
}

pub(crate) fn endpoint(connection: &Connection) -> Result<Endpoint, InvalidUrl> {
    let Connection {
        url,
        tls: Tls::ByScheme,
        auth: Auth::InUrl,
    } = connection;
    Endpoint::at(url)
}

/// Returns the code of the server's exception. The crate passes on the server's
/// response, which starts with `Code: 60. DB::Exception: …`.
#[must_use]
pub fn exception_code(error: &ClickHouseError) -> Option<u32> {
    let ClickHouseError::BadResponse(response) = error else {
        return None;
    };
    let code = response.split("Code: ").nth(1)?;
    let digits = code.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Returns true if the server refuses the user or the password, or if the user lacks a
/// permission.
#[must_use]
pub fn is_denied(error: &ClickHouseError) -> bool {
    matches!(
        exception_code(error),
        Some(UNKNOWN_USER | ACCESS_DENIED | AUTHENTICATION_FAILED)
    )
}

/// Exception codes of ClickHouse.
const UNKNOWN_USER: u32 = 192;
const ACCESS_DENIED: u32 = 497;
const AUTHENTICATION_FAILED: u32 = 516;
/// Timeout of a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A ClickHouse server, independent of a database.
#[derive(Debug, Clone)]
pub struct Server(Endpoint);

impl Server {
    /// Returns the server of this connection.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn new(connection: &Connection) -> Result<Self, InvalidUrl> {
        endpoint(connection).map(Self)
    }

    /// Runs a trivial query, which checks that the server works and the credentials
    /// are valid.
    ///
    /// # Errors
    /// If the server is unreachable, the credentials are wrong, the query fails, or no
    /// response arrives within 10 s.
    pub async fn ping(&self) -> Result<(), ClickHouseError> {
        bounded(PING_TIMEOUT, self.0.client().query("SELECT 1").execute()).await
    }

    /// Executes one statement unchanged.
    ///
    /// # Errors
    /// If the server refuses the statement, or does not respond within `timeout`.
    pub async fn execute(&self, statement: &str, timeout: Duration) -> Result<(), ClickHouseError> {
        // The crate treats `?` as a placeholder for a value.
        let statement = statement.replace('?', "??");
        // After the timeout, the server aborts the statement, too.
        let seconds = timeout.as_secs().max(1).to_string();
        let query = self.0.client().query(&statement);
        let query = query.with_setting("max_execution_time", seconds);
        bounded(timeout, query.execute()).await
    }

    /// Returns the tables and views of a database with the names of their columns.
    /// Returns an empty map if the database does not exist.
    ///
    /// # Errors
    /// As [`Self::ping`], or if no response arrives within `timeout`.
    pub async fn columns(
        &self,
        database: &str,
        timeout: Duration,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, ClickHouseError> {
        let query = "SELECT table, name FROM system.columns WHERE database = ?";
        let query = self.0.client().query(query).bind(database);
        let rows = bounded(timeout, query.fetch_all::<(String, String)>()).await?;
        let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (table, column) in rows {
            tables.entry(table).or_default().insert(column);
        }
        Ok(tables)
    }

    /// Returns true if a database of this name exists.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub async fn has_database(
        &self,
        database: &str,
        timeout: Duration,
    ) -> Result<bool, ClickHouseError> {
        let query = "SELECT count() FROM system.databases WHERE name = ?";
        let query = self.0.client().query(query).bind(database);
        let count: u64 = bounded(timeout, query.fetch_one()).await?;
        Ok(count > 0)
    }

    /// Returns true if a view exists with this `SELECT` query. The server formats both
    /// queries before they are compared.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub async fn view_selects(
        &self,
        (database, view): (&str, &str),
        select: &str,
        timeout: Duration,
    ) -> Result<bool, ClickHouseError> {
        let query = "SELECT count() FROM system.tables WHERE database = ? AND name = ?
            AND formatQuerySingleLine(as_select) = formatQuerySingleLine(?)";
        let query = self.0.client().query(query);
        let query = query.bind(database).bind(view).bind(select);
        let count: u64 = bounded(timeout, query.fetch_one()).await?;
        Ok(count > 0)
    }
}

/// Awaits a response. Returns [`ClickHouseError::TimedOut`] after the timeout, so that a
/// hanging server does not block the caller.
pub(crate) async fn bounded<T>(
    timeout: Duration,
    response: impl Future<Output = Result<T, ClickHouseError>>,
) -> Result<T, ClickHouseError> {
    tokio::time::timeout(timeout, response)
        .await
        .unwrap_or(Err(ClickHouseError::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_decoded_from_the_url() {
        let url = SecretUrl::from("http://an%40op:p%21w%3A@127.0.0.1:8123/");
        let endpoint = Endpoint::at(&url).expect("a valid URL");
        assert_eq!(endpoint.user, "an@op");
        assert_eq!(endpoint.password.reveal(), "p!w:");
        assert_eq!(endpoint.url, "http://127.0.0.1:8123");
    }
}
