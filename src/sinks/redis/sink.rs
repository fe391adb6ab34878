//! The board in Redis: keeps the rolling window and decides what to publish. The
//! board's [`worker`](super::worker) supplies the events and holds the lease.
//!
//! Scores are published as absolute values. A delta applies only to the board that
//! it was computed from. Anything else in Redis is replaced by a full publication.

use std::time::Duration;

use uuid::Uuid;

use super::{BoardKeys, Publication, Published, Publisher};
use crate::{
    config,
    connections::redis::{Redis, RedisError},
    debezium::{Change, Counted, CountedTable, Decoder, Ignored, Record, SourceTable, Table},
    kafka::chunk::Chunk,
    runtime::{Fault, Rejected},
    window::{Applied, BoardEvent, Score, Window, WindowSettings},
};

/// Format version of the board's metadata.
const FORMAT: u16 = 1;

/// Microseconds in a second.
const SECOND_US: i64 = 1_000_000;

/// A record, reduced to what the board needs.
#[derive(Debug, Clone)]
pub enum BoardChange {
    /// The event's current state. `None` if it was deleted.
    Event {
        id: i64,
        event: Option<BoardEvent>,
    },
    Truncate,
    Ignored(Ignored),
    Rejected(Rejected),
}

/// A decoded record with its offset and time.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub offset: i64,
    pub record_time_us: i64,
    /// LSN of the change in Postgres, if known.
    pub lsn: Option<i64>,
    pub extra_fields: bool,
    pub change: BoardChange,
}

/// Event decoder for the board's kind of score.
#[derive(Debug, Clone)]
pub enum BoardDecoder {
    Events(Decoder<CountedTable<false>>),
    Seconds(Decoder<CountedTable<true>>),
}

impl BoardDecoder {
    #[must_use]
    pub fn new(source: SourceTable, score: config::Score) -> Self {
        // These columns have fixed lengths, so Debezium never writes a placeholder
        // in place of their values.
        match score {
            config::Score::Events => Self::Events(Decoder::new(source)),
            config::Score::Seconds => Self::Seconds(Decoder::new(source)),
        }
    }

    /// Decodes a chunk.
    #[must_use]
    pub fn decode(&self, chunk: &Chunk) -> Vec<Decoded> {
        let records = chunk.records().enumerate();
        records
            .map(|(index, record)| self.decode_one(index, &record))
            .collect()
    }

    /// Decodes the record at position `index` of its batch.
    #[must_use]
    pub fn decode_one(&self, index: usize, record: &Record<'_>) -> Decoded {
        match self {
            Self::Events(decoder) => decode(decoder, index, record),
            Self::Seconds(decoder) => decode(decoder, index, record),
        }
    }
}

fn decode<T>(decoder: &Decoder<T>, index: usize, record: &Record<'_>) -> Decoded
where
    T: for<'a> Table<Row<'a> = Counted, Id = i64>,
{
    let mut has_extra_fields = false;
    let mut change_lsn = None;
    let change = match decoder.decode(record) {
        Ok(Change::Upsert {
            row,
            extra_fields,
            lsn,
            ..
        }) => {
            has_extra_fields = extra_fields;
            change_lsn = lsn;
            BoardChange::Event {
                id: row.id,
                event: Some(BoardEvent {
                    content_id: row.content_id,
                    event_ts: row.event_ts,
                    duration_ms: row.duration_ms,
                }),
            }
        }
        Ok(Change::Delete { id }) => BoardChange::Event { id, event: None },
        Ok(Change::Truncate { lsn }) => {
            change_lsn = lsn;
            BoardChange::Truncate
        }
        Ok(Change::Ignored(reason)) => BoardChange::Ignored(reason),
        Err(reject) => BoardChange::Rejected(Rejected::undecoded(index, reject, None)),
    };
    Decoded {
        offset: record.offset,
        record_time_us: record.timestamp_ms * 1000,
        lsn: change_lsn,
        extra_fields: has_extra_fields,
        change,
    }
}

/// Metadata published with the scores.
#[derive(Debug, Clone)]
pub struct BoardMeta {
    /// Microseconds since the epoch.
    pub as_of_us: i64,
    /// Next offset of each partition: all earlier records are included. Together
    /// with `as_of_us` it determines the board.
    pub positions: Vec<i64>,
    /// The board includes every record that the log held this long ago.
    pub staleness: Duration,
    /// Whether the board includes every event of its window.
    pub complete: bool,
}

/// The board and the state last published to Redis.
#[derive(Debug)]
pub struct Board {
    window: Window,
    publisher: Publisher,
    settings: config::Board,
    /// Sequence number and member count of the last publication. `None` if the
    /// content of Redis is unknown.
    published: Option<(u64, usize)>,
    seq: u64,
    truncated: Option<Truncated>,
}

/// The latest truncate, which removed all earlier rows. It is a record of one
/// partition and applies to all partitions. Rows are compared with it by LSN, or by
/// record time if they have no LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Truncated {
    lsn: i64,
    record_time_us: i64,
}

impl Board {
    /// # Errors
    /// If the Redis URL is invalid.
    pub fn new(
        settings: &config::Board,
        redis: &Redis,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            window: window(settings, 0),
            publisher: redis.publisher(
                BoardKeys::new(&settings.key),
                Duration::from_millis(settings.lease_ms),
                timeout,
            )?,
            settings: settings.clone(),
            published: None,
            seq: 0,
            truncated: None,
        })
    }

    /// Removes all events, so that the board can be rebuilt from the log.
    pub fn restart(&mut self, now_us: i64) {
        self.window = window(&self.settings, now_us);
        self.published = None;
    }

    /// Returns true if the clock was set back to `now_us`. The board must then be
    /// rebuilt from the log.
    pub fn is_ahead_of(&self, now_us: i64) -> bool {
        self.window.is_clock_set_back(now_us)
    }

    /// Tries to acquire the lease. Returns true if it is held.
    pub async fn acquire_lease(&mut self) -> Result<bool, Fault> {
        self.publisher
            .acquire_lease()
            .await
            .map_err(|error| classify(&error))
    }

    /// Renews the lease. Returns false if it was lost.
    pub async fn renew_lease(&mut self) -> Result<bool, Fault> {
        self.publisher
            .renew_lease()
            .await
            .map_err(|error| classify(&error))
    }

    /// Releases the lease. If Redis is unreachable, the lease expires later.
    pub async fn release_lease(&mut self) {
        if let Err(error) = self.publisher.release_lease().await {
            tracing::debug!(%error, "cannot release the lease, it will expire");
        }
    }

    /// Applies the current state of an event. `None` deletes it.
    pub fn apply(&mut self, id: i64, event: Option<BoardEvent>, record_time_us: i64) -> Applied {
        self.window.apply(id, event, record_time_us)
    }

    /// Records a truncate. Returns true if it is later than the last known one. The
    /// board must then be rebuilt, because it may include removed rows.
    pub fn truncate(&mut self, record: &Decoded) -> bool {
        let truncated = Truncated {
            lsn: record.lsn.unwrap_or(i64::MIN),
            record_time_us: record.record_time_us,
        };
        let is_later = self.truncated.is_none_or(|known| known < truncated);
        if is_later {
            self.truncated = Some(truncated);
        }
        is_later
    }

    /// Returns true if a truncate has removed this record's row.
    pub fn is_truncated(&self, record: &Decoded) -> bool {
        self.truncated.is_some_and(|truncated| match record.lsn {
            Some(lsn) => lsn < truncated.lsn,
            None => record.record_time_us < truncated.record_time_us,
        })
    }

    /// Returns true if the next publication is a full one.
    pub fn needs_full_publish(&self) -> bool {
        self.published.is_none()
    }

    /// Makes the next publication a full one.
    pub fn force_full_publish(&mut self) {
        self.published = None;
    }

    /// Publishes the board as of `meta.as_of_us`. Returns true if the lease is
    /// still held.
    pub async fn publish(&mut self, meta: BoardMeta) -> Result<bool, Fault> {
        self.window.advance(meta.as_of_us);
        let changed = self.window.changed();
        let outcome = match self.published {
            Some(base) => self.send(Some(base), &changed, &meta).await,
            None => self.send(None, &[], &meta).await,
        };
        match outcome {
            Ok(Published::Done) => Ok(true),
            Ok(Published::LeaseLost) => Ok(false),
            Ok(Published::Stale) => self.replace(&meta).await,
            Ok(Published::WrongType) => Err(self.wrong_type()),
            Err(error) => {
                // Redis may or may not have applied the publication.
                self.published = None;
                Err(classify(&error))
            }
        }
    }

    async fn replace(&mut self, meta: &BoardMeta) -> Result<bool, Fault> {
        self.published = None;
        match self.send(None, &[], meta).await {
            Ok(Published::Done) => Ok(true),
            Ok(Published::LeaseLost) => Ok(false),
            Ok(Published::Stale) => Err(Fault::retry(
                "redis: a full publication was rejected as stale",
            )),
            Ok(Published::WrongType) => Err(self.wrong_type()),
            Err(error) => Err(classify(&error)),
        }
    }

    async fn send(
        &mut self,
        base: Option<(u64, usize)>,
        changed: &[(Uuid, Option<i64>)],
        meta: &BoardMeta,
    ) -> Result<Published, RedisError> {
        let (removed, scores): (Vec<Uuid>, Vec<(Uuid, i64)>) = if base.is_some() {
            let removed = changed.iter().filter(|(_, score)| score.is_none());
            let scores = changed
                .iter()
                .filter_map(|(id, score)| Some((*id, (*score)?)));
            (removed.map(|(id, _)| *id).collect(), scores.collect())
        } else {
            (Vec::new(), self.window.scores().collect())
        };
        self.seq += 1;
        let meta_fields = self.meta_fields(meta);
        let published = self
            .publisher
            .publish(&Publication {
                base,
                meta: &meta_fields,
                removed: &removed,
                scores: &scores,
                time_to_live: Duration::from_secs(self.settings.window_seconds),
            })
            .await?;
        self.published =
            (published == Published::Done).then(|| (self.seq, self.window.cardinality()));
        Ok(published)
    }

    fn meta_fields(&self, meta: &BoardMeta) -> [(&'static str, String); 8] {
        let positions: Vec<String> = meta.positions.iter().map(i64::to_string).collect();
        let score = match self.settings.score {
            config::Score::Events => "events",
            config::Score::Seconds => "seconds",
        };
        [
            ("format", FORMAT.to_string()),
            ("as_of", self.window.as_of_us().to_string()),
            ("seq", self.seq.to_string()),
            ("complete", u8::from(meta.complete).to_string()),
            ("behind_ms", meta.staleness.as_millis().to_string()),
            ("window_seconds", self.settings.window_seconds.to_string()),
            ("score", score.to_owned()),
            ("positions", positions.join(",")),
        ]
    }

    fn wrong_type(&self) -> Fault {
        let keys = self.publisher.keys();
        Fault::halt(
            "wrong_type",
            format!("redis key {} or {} is not a board", keys.board, keys.meta),
            format!(
                "redis-cli rename {} {}.old, or set board.key",
                keys.board, keys.board
            ),
        )
    }
}

fn window(settings: &config::Board, now_us: i64) -> Window {
    let microseconds = |seconds: u64| {
        i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(SECOND_US)
    };
    Window::new(
        WindowSettings {
            window_us: microseconds(settings.window_seconds),
            skew_us: microseconds(settings.skew_seconds),
            score: match settings.score {
                config::Score::Events => Score::Events,
                config::Score::Seconds => Score::Seconds,
            },
        },
        now_us,
    )
}

/// Classifies an error: wrong credentials halt the sink, others are retried.
fn classify(error: &RedisError) -> Fault {
    let reason = format!("redis: {error}");
    if error.is_denied() {
        return Fault::halt(
            "redis_credentials",
            reason,
            "correct the user and password in redis.url or FANOUT_REDIS_URL",
        );
    }
    Fault::retry(reason)
}
