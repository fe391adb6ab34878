//! Readiness probes: each server is queried in its own protocol, as its clients
//! would do it.

use std::{error::Error, time::Duration};

use tokio::net::TcpStream;

use super::{definition::Ready, endpoint::host_and_port};
use crate::{
    connections::{
        Connection, clickhouse,
        postgres::{self, Postgres},
        redis::Redis,
        web::{self, WebServer},
    },
    failure::chain,
    kafka,
    secret::SecretUrl,
    text::escape::escape,
};

/// Timeout of one probe.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Error of a failed probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeError {
    /// Message on one line, escaped for the terminal.
    pub text: String,
    /// Whether the server responds and rejects the credentials of its endpoint.
    pub is_denied: bool,
}

impl ProbeError {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_denied: false,
        }
    }

    fn from_error(error: &(dyn Error + 'static), is_denied: bool) -> Self {
        Self {
            text: chain(error),
            is_denied,
        }
    }
}

/// Probes a server once.
///
/// # Errors
/// If the server does not respond as expected.
pub async fn probe(ready: &Ready, endpoint: &SecretUrl) -> Result<(), ProbeError> {
    let request = ask(ready, endpoint);
    let timed_out = || {
        let text = format!("no response within {} s", TIMEOUT.as_secs());
        Err(ProbeError::new(text))
    };
    let result = tokio::time::timeout(TIMEOUT, request).await;
    result
        .unwrap_or_else(|_| timed_out())
        .map_err(|error| ProbeError {
            text: escape(&error.text).into_owned(),
            ..error
        })
}

/// Checks that something is listening. Its error is short, whereas clients
/// report long ones.
async fn listens(endpoint: &SecretUrl) -> Result<(), ProbeError> {
    let Some((host, port)) = host_and_port(endpoint.reveal()) else {
        let text = format!("`{endpoint}` has no host and port");
        return Err(ProbeError::new(text));
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(ProbeError::from_error(&error, false)),
    }
}

async fn ask(ready: &Ready, endpoint: &SecretUrl) -> Result<(), ProbeError> {
    match ready {
        Ready::Postgres => Postgres::new(Connection::new(endpoint.clone()))
            .ping()
            .await
            .map_err(|error| ProbeError::from_error(&error, postgres::is_denied(&error))),
        Ready::Redis => Redis::new(Connection::new(endpoint.clone()))
            .ping(TIMEOUT)
            .await
            .map_err(|error| ProbeError::from_error(&error, error.is_denied())),
        Ready::Kafka => {
            // The client retries with growing delays, so it is used only once
            // something is listening.
            listens(endpoint).await?;
            let connection = Connection::new(endpoint.clone());
            // The client blocks for at most the given time.
            let request = tokio::task::spawn_blocking(move || kafka::ping(&connection, TIMEOUT));
            let result = request
                .await
                .map_err(|error| ProbeError::from_error(&error, false))?;
            result.map_err(|error| ProbeError::from_error(&error, kafka::is_denied(&error)))
        }
        Ready::ClickHouse => {
            let server = clickhouse::Server::new(&Connection::new(endpoint.clone()))
                .map_err(|error| ProbeError::from_error(&error, false))?;
            server
                .ping()
                .await
                .map_err(|error| ProbeError::from_error(&error, clickhouse::is_denied(&error)))
        }
        Ready::Http { path, expect } => {
            listens(endpoint).await?;
            WebServer::new(Connection::new(endpoint.join(path)))
                .ping(expect.as_deref(), TIMEOUT)
                .await
                .map_err(|error| ProbeError::from_error(&error, web::is_denied(&error)))
        }
    }
}
