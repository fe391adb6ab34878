//! Whether a server serves: asked in its own protocol, as its clients would.

use std::time::Duration;

use tokio::net::TcpStream;

use super::{definition::Ready, endpoint::host_and_port};
use crate::{
    clients::{clickhouse, kafka, postgres, redis, web},
    escape::escape,
    failure::chain,
    secret::SecretUrl,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks once. The error is what the client had to say, as one line that is
/// harmless to a terminal.
///
/// # Errors
/// When the server does not answer as it should.
pub async fn probe(ready: &Ready, endpoint: &SecretUrl) -> Result<(), String> {
    let asked = ask(ready, endpoint);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|said| escape(&said).into_owned()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Whether anything is there: says so shortly, where clients have much to say.
async fn listens(endpoint: &SecretUrl) -> Result<(), String> {
    let Some((host, port)) = host_and_port(endpoint.reveal()) else {
        return Err(format!("`{endpoint}` has no host and port"));
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn ask(ready: &Ready, endpoint: &SecretUrl) -> Result<(), String> {
    match ready {
        Ready::Postgres => postgres::ping(endpoint)
            .await
            .map_err(|error| chain(&error)),
        Ready::Redis => redis::ping(endpoint).await.map_err(|error| chain(&error)),
        Ready::Kafka => {
            // The client tries again by itself, ever more slowly: it is asked
            // only once something listens.
            listens(endpoint).await?;
            let brokers = endpoint.reveal().to_owned();
            // The client blocks, and comes back within the time it is given.
            let asked = tokio::task::spawn_blocking(move || kafka::ping(&brokers, PATIENCE));
            let answer = asked.await.map_err(|error| error.to_string())?;
            answer.map_err(|error| chain(&error))
        }
        Ready::ClickHouse => {
            let endpoint = clickhouse::Endpoint::at(endpoint).map_err(|error| error.to_string())?;
            clickhouse::ping(&endpoint)
                .await
                .map_err(|error| chain(&error))
        }
        Ready::Http { path, expect } => {
            listens(endpoint).await?;
            web::ping(&endpoint.join(path), expect.as_deref(), PATIENCE)
                .await
                .map_err(|error| chain(&error))
        }
    }
}
