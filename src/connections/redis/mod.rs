//! Client for Redis, based on the redis crate.

mod error;

use std::time::Duration;

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

pub use error::{RedisError, RedisProblem};

use super::{Auth, Connection, Tls};

/// Default timeout for a response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A Redis server. Each call opens its own connection.
#[derive(Debug, Clone)]
pub struct Redis(pub(crate) Connection);

impl Redis {
    /// Returns a client. Does not connect yet.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Sends `PING`. A server that is still loading its data responds with an error.
    ///
    /// # Errors
    /// If the server is unreachable, does not respond in time, or is not ready, or if
    /// the credentials are wrong.
    pub async fn ping(&self, timeout: Duration) -> Result<(), RedisError> {
        let mut connection = self.connect(timeout).await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await?;
        Ok(())
    }

    /// Returns those of `keys` that exist.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn existing(&self, keys: &[String]) -> Result<Vec<String>, RedisError> {
        let mut connection = self.connect(TIMEOUT).await?;
        let mut existing = Vec::new();
        for key in keys {
            let exists: bool = redis::cmd("EXISTS")
                .arg(key)
                .query_async(&mut connection)
                .await?;
            if exists {
                existing.push(key.clone());
            }
        }
        Ok(existing)
    }

    /// Sets a key to a value that expires after `time`, and overwrites the previous
    /// value.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn hold(&self, key: &str, value: &str, time: Duration) -> Result<(), RedisError> {
        let mut connection = self.connect(TIMEOUT).await?;
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        redis::cmd("SET")
            .arg(key)
            .arg(value)
            .arg("PX")
            .arg(millis)
            .query_async::<()>(&mut connection)
            .await?;
        Ok(())
    }

    /// Deletes keys. Returns the number of deleted keys.
    ///
    /// # Errors
    /// If the server is unreachable or refuses the command, or if the credentials are
    /// wrong.
    pub async fn delete(&self, keys: &[String]) -> Result<u64, RedisError> {
        let mut connection = self.connect(TIMEOUT).await?;
        // One key per command, because the nodes of a cluster have different keys.
        let mut deleted = 0;
        for key in keys {
            deleted += redis::cmd("DEL")
                .arg(key)
                .query_async::<u64>(&mut connection)
                .await?;
        }
        Ok(deleted)
    }

    /// Opens a connection on which every command has this timeout.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let client = self.client()?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(connection.await?)
    }

    pub(crate) fn client(&self) -> Result<redis::Client, RedisError> {
        let Connection {
            url,
            tls: Tls::ByScheme,
            auth: Auth::InUrl,
        } = &self.0;
        Ok(redis::Client::open(url.reveal())?)
    }
}
