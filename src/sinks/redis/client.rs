//! The published board, read in one step.

use std::time::Duration;

use redis::{InfoDict, aio::MultiplexedConnection};
use uuid::Uuid;

use super::BoardKeys;
use crate::connections::redis::{Redis, RedisError, RedisProblem};

/// Formats of the meta hash that are understood.
const FORMAT: u16 = 1;

/// What Redis holds of a board at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardView {
    /// Highest score first.
    pub members: Vec<(String, i64)>,
    /// Members there are, also of those not asked for.
    pub cardinality: u64,
    /// None where no pipeline has ever published, or not for a window's time.
    pub meta: Option<Meta>,
    /// For how long the publishing worker's lease still holds.
    pub lease: Option<Duration>,
}

/// What the publishing worker says of the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Meta {
    /// The board is as of this moment, microseconds since the epoch.
    pub as_of_us: i64,
    pub seq: u64,
    /// Whether it is known to hold every event of its window.
    pub complete: bool,
    /// How far the worker is behind the log.
    pub behind_ms: i64,
    pub window_seconds: u64,
}

/// A board may be ahead of the clock of whoever looks at it by this much: what
/// clocks of different machines differ by.
const CLOCK_TOLERANCE_US: i64 = 5_000_000;

impl Meta {
    /// Whether the board is of a moment that is yet to come, by more than clocks
    /// usually differ.
    #[must_use]
    pub fn is_ahead_of(&self, now_us: i64) -> bool {
        self.as_of_us.saturating_sub(now_us) > CLOCK_TOLERANCE_US
    }
}

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
    /// Connects, to read a board.
    ///
    /// # Errors
    /// When the URL is none, nothing answers within `timeout`, or the credentials
    /// are wrong.
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
    /// The first `limit` members, or all.
    ///
    /// # Errors
    /// When Redis does not answer or a key holds something else.
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

    /// Why nobody can write to this Redis, as far as it says so itself.
    ///
    /// # Errors
    /// When it does not answer, or the user may not ask.
    pub async fn write_problem(&mut self) -> Result<Option<RedisProblem>, RedisError> {
        let info: InfoDict = redis::cmd("INFO").query_async(&mut self.connection).await?;
        Ok(write_problem(|name| info.get(name)))
    }

    /// The score of one member, where it is on the board.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn score(&mut self, member: Uuid) -> Result<Option<i64>, RedisError> {
        let score: Option<f64> = redis::cmd("ZSCORE")
            .arg(&self.keys.board)
            .arg(member.to_string())
            .query_async(&mut self.connection)
            .await?;
        Ok(score.map(whole))
    }
}

/// Reads what `INFO` says.
fn write_problem(info: impl Fn(&str) -> Option<String>) -> Option<RedisProblem> {
    let is = |name: &str, wanted: &str| info(name).is_some_and(|value| value == wanted);
    let number = |name: &str| info(name).and_then(|value| value.parse::<u64>().ok());
    if is("role", "slave") && !is("slave_read_only", "0") {
        return Some(RedisProblem::ReadOnly);
    }
    let used = number("used_memory").unwrap_or(0);
    let uncounted = number("mem_not_counted_for_evict").unwrap_or(0);
    let most = number("maxmemory").unwrap_or(0);
    let is_full = most > 0 && used.saturating_sub(uncounted) >= most;
    if is_full && is("maxmemory_policy", "noeviction") {
        return Some(RedisProblem::OutOfMemory);
    }
    let fails = ["rdb_last_bgsave_status", "aof_last_write_status"];
    let fails = fails.iter().any(|name| is(name, "err"));
    fails.then_some(RedisProblem::NotSaving)
}

type Fields = std::collections::HashMap<String, String>;

fn view(members: Vec<(String, f64)>, cardinality: u64, fields: &Fields, lease: i64) -> BoardView {
    BoardView {
        members: members
            .into_iter()
            .map(|(member, score)| (member, whole(score)))
            .collect(),
        cardinality,
        meta: meta(fields),
        // Redis answers -2 where there is none.
        lease: u64::try_from(lease).ok().map(Duration::from_millis),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the pipeline publishes whole scores far below 2^53"
)]
fn whole(score: f64) -> i64 {
    score.round() as i64
}

/// Reads the hash; none where it is not there, not whole, or of another format.
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
    fn info_says_why_nobody_can_write() {
        let of = |pairs: &[(&str, &str)]| {
            let info = fields(pairs);
            write_problem(|name| info.get(name).cloned())
        };
        let full = |policy| {
            of(&[
                ("role", "master"),
                ("used_memory", "900"),
                ("mem_not_counted_for_evict", "100"),
                ("maxmemory", "800"),
                ("maxmemory_policy", policy),
            ])
        };
        assert_eq!(of(&[("role", "master"), ("maxmemory", "0")]), None);
        let replica = of(&[("role", "slave"), ("slave_read_only", "1")]);
        assert_eq!(replica, Some(RedisProblem::ReadOnly));
        assert_eq!(of(&[("role", "slave"), ("slave_read_only", "0")]), None);
        assert_eq!(full("noeviction"), Some(RedisProblem::OutOfMemory));
        assert_eq!(full("allkeys-lru"), None);
        let failing = of(&[("rdb_last_bgsave_status", "err")]);
        assert_eq!(failing, Some(RedisProblem::NotSaving));
    }

    #[test]
    fn half_a_meta_or_one_of_another_format_is_none() {
        let whole = [
            ("format", "1"),
            ("as_of", "1700000000000000"),
            ("seq", "7"),
            ("complete", "1"),
            ("behind_ms", "12"),
            ("window_seconds", "600"),
        ];
        let read = meta(&fields(&whole)).expect("a meta");
        assert_eq!((read.seq, read.complete, read.behind_ms), (7, true, 12));
        assert_eq!(meta(&fields(&whole[..5])), None);
        assert_eq!(
            meta(&fields(&[&[("format", "2")], &whole[1..]].concat())),
            None
        );
        assert_eq!(meta(&fields(&[])), None);
    }
}
