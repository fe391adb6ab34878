//! A client that reads the published board, each time in one transaction.

use std::time::Duration;

use redis::{InfoDict, aio::MultiplexedConnection};
use uuid::Uuid;

use super::BoardKeys;
use crate::{
    connections::redis::{Redis, RedisError, RedisProblem},
    sinks::inspect::{BoardView, Meta},
};

/// The supported format of the meta hash.
const FORMAT: u16 = 1;

/// Reads one board.
#[derive(Clone)]
pub struct BoardReader {
    connection: MultiplexedConnection,
    keys: BoardKeys,
}

impl std::fmt::Debug for BoardReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BoardReader")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects to read a board.
    ///
    /// # Errors
    /// If the URL is invalid, Redis does not respond within `timeout`, or the
    /// credentials are wrong.
    pub async fn board(
        &self,
        keys: BoardKeys,
        timeout: Duration,
    ) -> Result<BoardReader, RedisError> {
        let connection = self.connect(timeout).await?;
        Ok(BoardReader { connection, keys })
    }
}

impl BoardReader {
    /// Returns the board with its first `limit` members, or with all of them.
    ///
    /// # Errors
    /// If Redis does not respond or a key has another type.
    pub async fn read(&mut self, limit: Option<usize>) -> Result<BoardView, RedisError> {
        let last = match limit {
            Some(0) => return self.read_meta().await,
            Some(limit) => isize::try_from(limit).map_or(-1, |limit| limit - 1),
            None => -1,
        };
        let (members, cardinality, fields, lease) = redis::pipe()
            .atomic()
            .cmd("ZREVRANGE")
            .arg(&self.keys.board)
            .arg(0)
            .arg(last)
            .arg("WITHSCORES")
            .zcard(&self.keys.board)
            .hgetall(&self.keys.meta)
            .cmd("PTTL")
            .arg(&self.keys.lease)
            .query_async(&mut self.connection)
            .await?;
        Ok(view(members, cardinality, &fields, lease))
    }

    async fn read_meta(&mut self) -> Result<BoardView, RedisError> {
        let (cardinality, fields, lease) = redis::pipe()
            .atomic()
            .zcard(&self.keys.board)
            .hgetall(&self.keys.meta)
            .cmd("PTTL")
            .arg(&self.keys.lease)
            .query_async(&mut self.connection)
            .await?;
        Ok(view(Vec::new(), cardinality, &fields, lease))
    }

    /// Returns why no worker can write to this Redis, as far as Redis reports it.
    ///
    /// # Errors
    /// If Redis does not respond, or the user may not run `INFO`.
    pub async fn write_problem(&mut self) -> Result<Option<RedisProblem>, RedisError> {
        let info: InfoDict = redis::cmd("INFO").query_async(&mut self.connection).await?;
        Ok(write_problem(|name| info.get(name)))
    }

    /// Returns the score of one member, or `None` if it is not on the board.
    ///
    /// # Errors
    /// If Redis does not respond.
    pub async fn score(&mut self, member: Uuid) -> Result<Option<i64>, RedisError> {
        let score: Option<f64> = redis::cmd("ZSCORE")
            .arg(&self.keys.board)
            .arg(member.to_string())
            .query_async(&mut self.connection)
            .await?;
        Ok(score.map(to_integer))
    }
}

/// Evaluates the fields of `INFO`.
fn write_problem(info: impl Fn(&str) -> Option<String>) -> Option<RedisProblem> {
    let has_value = |name: &str, expected: &str| info(name).is_some_and(|value| value == expected);
    let number = |name: &str| info(name).and_then(|value| value.parse::<u64>().ok());
    if has_value("role", "slave") && !has_value("slave_read_only", "0") {
        return Some(RedisProblem::ReadOnly);
    }
    let used = number("used_memory").unwrap_or(0);
    let uncounted = number("mem_not_counted_for_evict").unwrap_or(0);
    let limit = number("maxmemory").unwrap_or(0);
    let is_full = limit > 0 && used.saturating_sub(uncounted) >= limit;
    if is_full && has_value("maxmemory_policy", "noeviction") {
        return Some(RedisProblem::OutOfMemory);
    }
    let statuses = ["rdb_last_bgsave_status", "aof_last_write_status"];
    let has_failed = statuses.iter().any(|name| has_value(name, "err"));
    has_failed.then_some(RedisProblem::NotSaving)
}

type Fields = std::collections::HashMap<String, String>;

fn view(members: Vec<(String, f64)>, cardinality: u64, fields: &Fields, lease: i64) -> BoardView {
    BoardView {
        members: members
            .into_iter()
            .map(|(member, score)| (member, to_integer(score)))
            .collect(),
        cardinality,
        meta: meta(fields),
        // Redis returns -2 if the key does not exist.
        lease: u64::try_from(lease).ok().map(Duration::from_millis),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the pipeline publishes integer scores far below 2^53"
)]
fn to_integer(score: f64) -> i64 {
    score.round() as i64
}

/// Parses the meta hash. Returns `None` if it is missing, incomplete, or in
/// another format.
fn meta(fields: &Fields) -> Option<Meta> {
    let number = |name: &str| fields.get(name)?.parse::<i64>().ok();
    if number("format")? != i64::from(FORMAT) {
        return None;
    }
    Some(Meta {
        as_of_us: number("as_of")?,
        seq: u64::try_from(number("seq")?).ok()?,
        complete: number("complete")? == 1,
        behind_ms: number("behind_ms")?,
        window_seconds: u64::try_from(number("window_seconds")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let owned = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn info_shows_why_redis_accepts_no_writes() {
        let problem = |pairs: &[(&str, &str)]| {
            let info = fields(pairs);
            write_problem(|name| info.get(name).cloned())
        };
        let full = |policy| {
            problem(&[
                ("role", "master"),
                ("used_memory", "900"),
                ("mem_not_counted_for_evict", "100"),
                ("maxmemory", "800"),
                ("maxmemory_policy", policy),
            ])
        };
        assert_eq!(problem(&[("role", "master"), ("maxmemory", "0")]), None);
        let replica = problem(&[("role", "slave"), ("slave_read_only", "1")]);
        assert_eq!(replica, Some(RedisProblem::ReadOnly));
        let writable_replica = problem(&[("role", "slave"), ("slave_read_only", "0")]);
        assert_eq!(writable_replica, None);
        assert_eq!(full("noeviction"), Some(RedisProblem::OutOfMemory));
        assert_eq!(full("allkeys-lru"), None);
        let failing = problem(&[("rdb_last_bgsave_status", "err")]);
        assert_eq!(failing, Some(RedisProblem::NotSaving));
    }

    #[test]
    fn incomplete_metadata_and_another_format_are_rejected() {
        let complete = [
            ("format", "1"),
            ("as_of", "1700000000000000"),
            ("seq", "7"),
            ("complete", "1"),
            ("behind_ms", "12"),
            ("window_seconds", "600"),
        ];
        let read = meta(&fields(&complete)).expect("complete metadata");
        assert_eq!((read.seq, read.complete, read.behind_ms), (7, true, 12));
        assert_eq!(meta(&fields(&complete[..5])), None);
        assert_eq!(
            meta(&fields(&[&[("format", "2")], &complete[1..]].concat())),
            None
        );
        assert_eq!(meta(&fields(&[])), None);
    }
}
