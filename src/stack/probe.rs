//! Whether a server serves: asked in its own protocol, as its clients would.

use std::{error::Error, time::Duration};

use tokio::net::TcpStream;

use super::{definition::Ready, endpoint::host_and_port};
use crate::{
    clients::{
        Connection, clickhouse, kafka,
        postgres::{self, Postgres},
        redis::Redis,
        web::{self, WebServer},
    },
    escape::escape,
    failure::chain,
    secret::SecretUrl,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came instead of the answer that a server should give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// One line that is harmless to a terminal.
    pub text: String,
    /// It answers, and refuses the credentials of its endpoint.
    pub is_denied: bool,
}

impl Unanswered {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_denied: false,
        }
    }

    fn of(error: &(dyn Error + 'static), is_denied: bool) -> Self {
        Self {
            text: chain(error),
            is_denied,
        }
    }
}

/// Asks once.
///
/// # Errors
/// When the server does not answer as it should.
pub async fn probe(ready: &Ready, endpoint: &SecretUrl) -> Result<(), Unanswered> {
    let asked = ask(ready, endpoint);
    let late = || {
        let text = format!("no answer within {} s", PATIENCE.as_secs());
        Err(Unanswered::new(text))
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer
        .unwrap_or_else(|_| late())
        .map_err(|said| Unanswered {
            text: escape(&said.text).into_owned(),
            ..said
        })
}

/// Whether anything is there: says so shortly, where clients have much to say.
async fn listens(endpoint: &SecretUrl) -> Result<(), Unanswered> {
    let Some((host, port)) = host_and_port(endpoint.reveal()) else {
        let text = format!("`{endpoint}` has no host and port");
        return Err(Unanswered::new(text));
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Unanswered::of(&error, false)),
    }
}

async fn ask(ready: &Ready, endpoint: &SecretUrl) -> Result<(), Unanswered> {
    match ready {
        Ready::Postgres => Postgres::new(Connection::new(endpoint.clone()))
            .ping()
            .await
            .map_err(|error| Unanswered::of(&error, postgres::is_denied(&error))),
        Ready::Redis => Redis::new(Connection::new(endpoint.clone()))
            .ping(PATIENCE)
            .await
            .map_err(|error| Unanswered::of(&error, error.is_denied())),
        Ready::Kafka => {
            // The client tries again by itself, ever more slowly: it is asked
            // only once something listens.
            listens(endpoint).await?;
            let connection = Connection::new(endpoint.clone());
            // The client blocks, and comes back within the time it is given.
            let asked = tokio::task::spawn_blocking(move || kafka::ping(&connection, PATIENCE));
            let answer = asked.await.map_err(|error| Unanswered::of(&error, false))?;
            answer.map_err(|error| Unanswered::of(&error, kafka::is_denied(&error)))
        }
        Ready::ClickHouse => {
            let server = clickhouse::Server::new(&Connection::new(endpoint.clone()))
                .map_err(|error| Unanswered::of(&error, false))?;
            server
                .ping()
                .await
                .map_err(|error| Unanswered::of(&error, clickhouse::is_denied(&error)))
        }
        Ready::Http { path, expect } => {
            listens(endpoint).await?;
            WebServer::new(Connection::new(endpoint.join(path)))
                .ping(expect.as_deref(), PATIENCE)
                .await
                .map_err(|error| Unanswered::of(&error, web::is_denied(&error)))
        }
    }
}
