//! ClickHouse over HTTP, by the clickhouse crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use clickhouse::insert::Insert;
use percent_encoding::percent_decode_str;

use super::{Auth, Connection, Tls};
use crate::secret::{Secret, SecretUrl};

/// Where a ClickHouse is and how to log in: from `http://user:password@host:port`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Without credentials.
    pub url: String,
    pub user: String,
    pub password: Secret,
}

/// Why a ClickHouse URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no ClickHouse URL: {reason}")]
pub struct InvalidUrl {
    url: SecretUrl,
    reason: String,
}

/// Errors of the client crate.
pub use clickhouse::error::Error as ClickHouseError;

impl Endpoint {
    /// Reads a URL. Only its credentials count besides its place: the client
    /// sends a query of its own.
    ///
    /// # Errors
    /// When it is no URL, or not one of HTTP.
    pub fn at(url: &SecretUrl) -> Result<Self, InvalidUrl> {
        let invalid = |reason: String| InvalidUrl {
            url: url.clone(),
            reason,
        };
        let mut parsed =
            url::Url::parse(url.reveal()).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid("its scheme has to be http or https".to_owned()));
        }
        // In a URL `!` may be `%21`, and `@` has to be `%40`.
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(parsed.username());
        let password = Secret::new(decoded(parsed.password().unwrap_or_default()));
        let cannot = |()| invalid("it has no host".to_owned());
        parsed.set_username("").map_err(cannot)?;
        parsed.set_password(None).map_err(cannot)?;
        parsed.set_query(None);
        parsed.set_fragment(None);
        Ok(Self {
            url: parsed.as_str().trim_end_matches('/').to_owned(),
            user,
            password,
        })
    }

    /// A client without a database of its own.
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

/// A ClickHouse, and fanout's database in it. Its URL is read when a client is
/// made, and nothing is sent before that client is asked something.
#[derive(Debug, Clone)]
pub struct ClickHouse {
    pub(crate) connection: Connection,
    pub(crate) database: String,
}

impl ClickHouse {
    /// The database of this name on the server of this connection.
    #[must_use]
    pub fn new(connection: Connection, database: &str) -> Self {
        Self {
            connection,
            database: database.to_owned(),
        }
    }

    /// The server, for statements that say their database themselves.
    ///
    /// # Errors
    /// When the URL cannot be used.
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

/// The code of the exception that an error tells of: the crate hands on the
/// server's answer, which begins with `Code: 60. DB::Exception: …`.
#[must_use]
pub fn exception_code(error: &ClickHouseError) -> Option<u32> {
    let ClickHouseError::BadResponse(answer) = error else {
        return None;
    };
    let after = answer.split("Code: ").nth(1)?;
    let digits = after
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

/// Whether the server refuses the user, the password, or what the user may do.
#[must_use]
pub fn is_denied(error: &ClickHouseError) -> bool {
    matches!(
        exception_code(error),
        Some(UNKNOWN_USER | ACCESS_DENIED | AUTHENTICATION_FAILED)
    )
}

/// Codes of ClickHouse's.
const UNKNOWN_USER: u32 = 192;
const ACCESS_DENIED: u32 = 497;
const AUTHENTICATION_FAILED: u32 = 516;
/// How long a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A server as such, whatever its databases.
#[derive(Debug, Clone)]
pub struct Server(Endpoint);

impl Server {
    /// The server of this connection.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(connection: &Connection) -> Result<Self, InvalidUrl> {
        endpoint(connection).map(Self)
    }

    /// A real query: proves the engine and the credentials.
    ///
    /// # Errors
    /// When nothing listens, the credentials are wrong, the query fails, or no
    /// answer comes within 10 s.
    pub async fn ping(&self) -> Result<(), ClickHouseError> {
        bounded(PING_TIMEOUT, self.0.client().query("SELECT 1").execute()).await
    }

    /// Executes one statement as it stands.
    ///
    /// # Errors
    /// When the server does not take it, or does not answer within `patience`.
    pub async fn execute(
        &self,
        statement: &str,
        patience: Duration,
    ) -> Result<(), ClickHouseError> {
        // The crate takes `?` for a place to bind a value.
        let statement = statement.replace('?', "??");
        // What is given up here is given up there too.
        let seconds = patience.as_secs().max(1).to_string();
        let query = self.0.client().query(&statement);
        let query = query.with_setting("max_execution_time", seconds);
        bounded(patience, query.execute()).await
    }

    /// Tables and views of a database with the names of their columns, none where
    /// there is no such database.
    ///
    /// # Errors
    /// As [`Self::ping`], and when no answer comes within `patience`.
    pub async fn columns(
        &self,
        database: &str,
        patience: Duration,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, ClickHouseError> {
        let query = "SELECT table, name FROM system.columns WHERE database = ?";
        let query = self.0.client().query(query).bind(database);
        let rows = bounded(patience, query.fetch_all::<(String, String)>()).await?;
        let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (table, column) in rows {
            tables.entry(table).or_default().insert(column);
        }
        Ok(tables)
    }

    /// Whether there is a database of this name.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub async fn has_database(
        &self,
        database: &str,
        patience: Duration,
    ) -> Result<bool, ClickHouseError> {
        let query = "SELECT count() FROM system.databases WHERE name = ?";
        let query = self.0.client().query(query).bind(database);
        let count: u64 = bounded(patience, query.fetch_one()).await?;
        Ok(count > 0)
    }

    /// Whether a view is there and selects this. Both are compared in the server's
    /// own form.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub async fn view_selects(
        &self,
        (database, view): (&str, &str),
        select: &str,
        patience: Duration,
    ) -> Result<bool, ClickHouseError> {
        let query = "SELECT count() FROM system.tables WHERE database = ? AND name = ?
            AND formatQuerySingleLine(as_select) = formatQuerySingleLine(?)";
        let query = self.0.client().query(query);
        let query = query.bind(database).bind(view).bind(select);
        let count: u64 = bounded(patience, query.fetch_one()).await?;
        Ok(count > 0)
    }
}

/// The answer, or [`ClickHouseError::TimedOut`]: a server that hangs must not
/// hang its callers.
pub(crate) async fn bounded<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, ClickHouseError>>,
) -> Result<T, ClickHouseError> {
    tokio::time::timeout(patience, answer)
        .await
        .unwrap_or(Err(ClickHouseError::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_what_the_url_says_decoded() {
        let url = SecretUrl::from("http://an%40op:p%21w%3A@127.0.0.1:8123/");
        let endpoint = Endpoint::at(&url).expect("a url");
        assert_eq!(endpoint.user, "an@op");
        assert_eq!(endpoint.password.reveal(), "p!w:");
        assert_eq!(endpoint.url, "http://127.0.0.1:8123");
    }
}
