//! Redis, by the redis crate.

mod error;

use std::time::Duration;

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

pub use error::{RedisError, RedisProblem};

use super::{Auth, Connection, Tls};

/// How long a server may take to answer where nobody says.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Redis. Nothing is sent before it is asked something.
#[derive(Debug, Clone)]
pub struct Redis(pub(crate) Connection);

impl Redis {
    /// The server of this connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// `PING`; a server still loading its data set answers with an error.
    ///
    /// # Errors
    /// When nothing listens or answers in time, the credentials are wrong, or it
    /// is not ready.
    pub async fn ping(&self, patience: Duration) -> Result<(), RedisError> {
        let mut connection = self.connect(patience).await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await?;
        Ok(())
    }

    /// Those of `keys` that are there.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn existing(&self, keys: &[String]) -> Result<Vec<String>, RedisError> {
        let mut connection = self.connect(PATIENCE).await?;
        let mut existing = Vec::new();
        for key in keys {
            let there: bool = redis::cmd("EXISTS")
                .arg(key)
                .query_async(&mut connection)
                .await?;
            if there {
                existing.push(key.clone());
            }
        }
        Ok(existing)
    }

    /// Gives a key a value for a time, whatever it held.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn hold(&self, key: &str, value: &str, time: Duration) -> Result<(), RedisError> {
        let mut connection = self.connect(PATIENCE).await?;
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

    /// Deletes keys; says how many there were.
    ///
    /// # Errors
    /// When nothing listens, the credentials are wrong, or it refuses.
    pub async fn delete(&self, keys: &[String]) -> Result<u64, RedisError> {
        let mut connection = self.connect(PATIENCE).await?;
        // One at a time: in a cluster keys live apart.
        let mut deleted = 0;
        for key in keys {
            deleted += redis::cmd("DEL")
                .arg(key)
                .query_async::<u64>(&mut connection)
                .await?;
        }
        Ok(deleted)
    }

    /// A connection on which every answer comes in time.
    pub(crate) async fn connect(
        &self,
        patience: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience));
        let client = self.client()?;
        let connected = client.get_multiplexed_async_connection_with_config(&config);
        Ok(connected.await?)
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
