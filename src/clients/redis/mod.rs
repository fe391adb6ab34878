//! Redis, by the redis crate.

mod board;
mod publish;

pub use board::{BoardReader, BoardView, Meta};
pub use publish::{BoardKeys, Publication, Published, Publisher};
pub use redis::RedisError;

use crate::secret::SecretUrl;

/// `PING`; a server still loading its data set answers with an error.
///
/// # Errors
/// When nothing listens, the credentials are wrong, or it is not ready.
pub async fn ping(url: &SecretUrl) -> Result<(), RedisError> {
    let client = redis::Client::open(url.reveal())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("PING")
        .query_async::<String>(&mut connection)
        .await?;
    Ok(())
}

/// Those of `keys` that are there.
///
/// # Errors
/// As [`ping`].
pub async fn existing(url: &SecretUrl, keys: &[String]) -> Result<Vec<String>, RedisError> {
    let client = redis::Client::open(url.reveal())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
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
/// As [`ping`].
pub async fn hold(
    url: &SecretUrl,
    key: &str,
    value: &str,
    time: std::time::Duration,
) -> Result<(), RedisError> {
    let client = redis::Client::open(url.reveal())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .arg("PX")
        .arg(millis)
        .query_async(&mut connection)
        .await
}

/// Deletes keys; says how many there were.
///
/// # Errors
/// When nothing listens, the credentials are wrong, or it refuses.
pub async fn delete(url: &SecretUrl, keys: &[String]) -> Result<u64, RedisError> {
    let client = redis::Client::open(url.reveal())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
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
