//! The board's keys, its lease, and the script that publishes it.

use std::time::Duration;

use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use uuid::Uuid;

use crate::connections::redis::{Redis, RedisError};

/// The keys of a board. The braces keep them on one node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardKeys {
    /// Sorted set: content id → score.
    pub board: String,
    /// Hash: `as_of, seq, complete, behind_ms, window_seconds, score, format`, and
    /// `positions`: the next offset of each partition; all earlier records are
    /// included.
    pub meta: String,
    /// String: id of the publishing worker.
    pub lease: String,
}

impl BoardKeys {
    /// Returns the keys of the board under this name.
    pub fn new(board: &str) -> Self {
        Self {
            board: board.to_owned(),
            meta: format!("{{{board}}}:meta"),
            lease: format!("{{{board}}}:lease"),
        }
    }
}

/// A delta of a board, or a full board.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Sequence number and member count of the board that the delta applies to.
    /// `None` replaces the full board.
    pub base: Option<(u64, usize)>,
    pub meta: &'a [(&'a str, String)],
    pub removed: &'a [Uuid],
    pub scores: &'a [(Uuid, i64)],
    pub time_to_live: Duration,
}

/// Outcome of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Done,
    /// Another worker holds the lease, or no worker does.
    LeaseLost,
    /// The board in Redis is not the one that the delta was computed from.
    Stale,
    /// One of the keys is not a board.
    WrongType,
}

/// Publishes one board under one lease.
#[derive(Clone)]
pub struct Publisher {
    client: Client,
    connection: Option<ConnectionManager>,
    script: Script,
    keys: BoardKeys,
    holder: String,
    lease: Duration,
    timeout: Duration,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Publisher")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// Returns a publisher of a board. Connects at the first use.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn publisher(
        &self,
        keys: BoardKeys,
        lease: Duration,
        timeout: Duration,
    ) -> Result<Publisher, RedisError> {
        Ok(Publisher::new(self.client()?, keys, lease, timeout))
    }
}

impl Publisher {
    fn new(client: Client, keys: BoardKeys, lease: Duration, timeout: Duration) -> Self {
        Self {
            client,
            connection: None,
            script: Script::new(include_str!("../../connections/redis/publish.lua")),
            keys,
            holder: Uuid::new_v4().to_string(),
            lease,
            timeout,
        }
    }

    /// Returns the keys of the published board.
    pub fn keys(&self) -> &BoardKeys {
        &self.keys
    }

    /// Returns the connection, which is opened at the first use and reconnects
    /// automatically.
    async fn connection(&mut self) -> Result<ConnectionManager, RedisError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let connection = self
            .client
            .get_connection_manager_with_config(config)
            .await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Acquires the lease if it is free, or renews it if this worker holds it.
    /// Returns true if this worker holds it now.
    ///
    /// Redis expires keys by its wall clock. If a lease lives longer than any holder
    /// requests, it was set before that clock was set back. Its holder may no longer
    /// run, so the lease is shortened to the usual time.
    pub async fn acquire_lease(&mut self) -> Result<bool, RedisError> {
        const ACQUIRE: &str = "local holder = redis.call('GET', KEYS[1]) \
                               if not holder then \
                                 redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end \
                               local left = redis.call('PTTL', KEYS[1]) \
                               if holder == ARGV[1] or left < 0 or left > tonumber(ARGV[2]) then \
                                 redis.call('PEXPIRE', KEYS[1], ARGV[2]) end \
                               return holder == ARGV[1] and 1 or 0";
        self.run_lease_script(ACQUIRE).await
    }

    /// Renews the lease. Returns true if this worker still holds it.
    pub async fn renew_lease(&mut self) -> Result<bool, RedisError> {
        const RENEW: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
                             return redis.call('PEXPIRE', KEYS[1], ARGV[2])";
        self.run_lease_script(RENEW).await
    }

    /// Runs a script with the key of the lease, this worker's id and the duration of
    /// the lease in milliseconds.
    async fn run_lease_script(&mut self, script: &str) -> Result<bool, RedisError> {
        let mut connection = self.connection().await?;
        let is_held = Script::new(script)
            .key(&self.keys.lease)
            .arg(&self.holder)
            .arg(millis(self.lease))
            .invoke_async(&mut connection)
            .await?;
        Ok(is_held)
    }

    /// Releases the lease, so that a standby worker need not wait until it expires.
    pub async fn release_lease(&mut self) -> Result<(), RedisError> {
        const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                               return redis.call('DEL', KEYS[1]) end return 0";
        let mut connection = self.connection().await?;
        Script::new(RELEASE)
            .key(&self.keys.lease)
            .arg(&self.holder)
            .invoke_async::<i64>(&mut connection)
            .await?;
        Ok(())
    }

    /// Publishes a board atomically.
    pub async fn publish(
        &mut self,
        publication: &Publication<'_>,
    ) -> Result<Published, RedisError> {
        let mut connection = self.connection().await?;
        let (mode, seq, members) = match publication.base {
            Some((seq, members)) => ("delta", seq, members),
            None => ("replace", 0, 0),
        };
        let mut call = self.script.prepare_invoke();
        call.key(&self.keys.board)
            .key(&self.keys.meta)
            .key(&self.keys.lease)
            .arg(&self.holder)
            .arg(millis(self.lease))
            .arg(mode)
            .arg(seq)
            .arg(members)
            .arg(millis(publication.time_to_live))
            .arg(publication.meta.len() * 2);
        for (name, value) in publication.meta {
            call.arg(*name).arg(value);
        }
        call.arg(publication.removed.len());
        for member in publication.removed {
            call.arg(member.to_string());
        }
        for (member, score) in publication.scores {
            call.arg(*score).arg(member.to_string());
        }
        let answer: String = call.invoke_async(&mut connection).await?;
        Ok(match answer.as_str() {
            "ok" => Published::Done,
            "lost" => Published::LeaseLost,
            "stale" => Published::Stale,
            _ => Published::WrongType,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
