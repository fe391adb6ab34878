//! The board in Redis: the rolling window's state, and when to publish what of
//! it. Who feeds it, and under which lease, is the pipeline's `board` worker.
//!
//! Published are absolute scores. A delta goes onto the very board it was made
//! for; whatever else Redis holds is replaced whole.

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

/// Format of the board's meta.
const FORMAT: u16 = 1;

/// Microseconds in a second.
const SECOND_US: i64 = 1_000_000;

/// One record, as far as the board is concerned.
#[derive(Debug, Clone)]
pub enum BoardChange {
    /// What an event is now; none where it was deleted.
    Event {
        id: i64,
        event: Option<BoardEvent>,
    },
    Truncate,
    Ignored(Ignored),
    Rejected(Rejected),
}

/// A decoded record with its place and time.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub offset: i64,
    pub record_time_us: i64,
    /// Where the change is in Postgres' log, where that is known.
    pub lsn: Option<i64>,
    pub extra_fields: bool,
    pub change: BoardChange,
}

/// Decodes events for a board, as it scores them.
#[derive(Debug, Clone)]
pub enum BoardDecoder {
    Events(Decoder<CountedTable<false>>),
    Seconds(Decoder<CountedTable<true>>),
}

impl BoardDecoder {
    #[must_use]
    pub fn new(source: SourceTable, score: config::Score) -> Self {
        // None of the columns is of variable length: nothing to recognise a
        // placeholder in.
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

    /// Decodes a record at this place of its batch.
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
    let mut extra = false;
    let mut at = None;
    let change = match decoder.decode(record) {
        Ok(Change::Upsert {
            row,
            extra_fields,
            lsn,
            ..
        }) => {
            extra = extra_fields;
            at = lsn;
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
            at = lsn;
            BoardChange::Truncate
        }
        Ok(Change::Ignored(why)) => BoardChange::Ignored(why),
        Err(reject) => BoardChange::Rejected(Rejected::undecoded(index, reject, None)),
    };
    Decoded {
        offset: record.offset,
        record_time_us: record.timestamp_ms * 1000,
        lsn: at,
        extra_fields: extra,
        change,
    }
}

/// What is published besides the scores.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Microseconds since the epoch.
    pub as_of_us: i64,
    /// Of each partition, everything before this offset is in. With `as_of`
    /// this is all that a board depends on.
    pub positions: Vec<i64>,
    /// Every record of the log is in, as of this long ago.
    pub behind: Duration,
    pub complete: bool,
}

/// The board and what Redis is known to hold of it.
#[derive(Debug)]
pub struct Board {
    window: Window,
    publisher: Publisher,
    settings: config::Board,
    /// Sequence number and members of what was last published; none where
    /// Redis may hold anything.
    published: Option<(u64, usize)>,
    seq: u64,
    truncated: Option<Truncated>,
}

/// The latest truncate: rows from before it are gone. A truncate is a record
/// of one partition and concerns all; what tells before from after is the
/// place in Postgres' log, and for rows that have none the time of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Truncated {
    lsn: i64,
    record_time_us: i64,
}

impl Board {
    /// # Errors
    /// When the Redis URL is none.
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

    /// Forgets all events, to be fed from the log again.
    pub fn restart(&mut self, now_us: i64) {
        self.window = window(&self.settings, now_us);
        self.published = None;
    }

    /// Whether the clock was set back, so that the board has to be fed again.
    pub fn has_outrun(&self, now_us: i64) -> bool {
        self.window.is_clock_set_back(now_us)
    }

    /// The lease, or a fault.
    pub async fn take_lease(&mut self) -> Result<bool, Fault> {
        self.publisher
            .take_lease()
            .await
            .map_err(|error| classify(&error))
    }

    /// Whether the lease is still held.
    pub async fn renew_lease(&mut self) -> Result<bool, Fault> {
        self.publisher
            .renew_lease()
            .await
            .map_err(|error| classify(&error))
    }

    /// Gives the lease back; where Redis is away it runs out by itself.
    pub async fn release_lease(&mut self) {
        if let Err(error) = self.publisher.release_lease().await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }

    /// Takes what an event is now.
    pub fn apply(&mut self, id: i64, event: Option<BoardEvent>, record_time_us: i64) -> Applied {
        self.window.apply(id, event, record_time_us)
    }

    /// Takes note of a truncate. Returns whether it is news: then what has been
    /// applied may be from before it, and the board has to be fed again.
    pub fn truncate(&mut self, record: &Decoded) -> bool {
        let truncated = Truncated {
            lsn: record.lsn.unwrap_or(i64::MIN),
            record_time_us: record.record_time_us,
        };
        let news = self.truncated.is_none_or(|known| known < truncated);
        if news {
            self.truncated = Some(truncated);
        }
        news
    }

    /// Whether a truncate has removed the row that this record is about.
    pub fn is_truncated(&self, record: &Decoded) -> bool {
        self.truncated.is_some_and(|truncated| match record.lsn {
            Some(lsn) => lsn < truncated.lsn,
            None => record.record_time_us < truncated.record_time_us,
        })
    }

    /// Whether the next publication replaces the board whole.
    pub fn replaces(&self) -> bool {
        self.published.is_none()
    }

    /// The next publication replaces the board whole.
    pub fn distrust(&mut self) {
        self.published = None;
    }

    /// Publishes the board as of this moment. Returns whether the lease is
    /// still held.
    pub async fn publish(&mut self, moment: Moment) -> Result<bool, Fault> {
        self.window.advance(moment.as_of_us);
        let changed = self.window.changed();
        let outcome = match self.published {
            Some(onto) => self.send(Some(onto), &changed, &moment).await,
            None => self.send(None, &[], &moment).await,
        };
        match outcome {
            Ok(Published::Done) => Ok(true),
            Ok(Published::LeaseLost) => Ok(false),
            Ok(Published::Stale) => self.replace(&moment).await,
            Ok(Published::WrongType) => Err(self.wrong_type()),
            Err(error) => {
                // It may or may not have arrived.
                self.published = None;
                Err(classify(&error))
            }
        }
    }

    async fn replace(&mut self, moment: &Moment) -> Result<bool, Fault> {
        self.published = None;
        match self.send(None, &[], moment).await {
            Ok(Published::Done) => Ok(true),
            Ok(Published::LeaseLost) => Ok(false),
            Ok(Published::Stale) => Err(Fault::retry("redis: a whole board was called stale")),
            Ok(Published::WrongType) => Err(self.wrong_type()),
            Err(error) => Err(classify(&error)),
        }
    }

    async fn send(
        &mut self,
        onto: Option<(u64, usize)>,
        changed: &[(Uuid, Option<i64>)],
        moment: &Moment,
    ) -> Result<Published, RedisError> {
        let (removed, scores): (Vec<Uuid>, Vec<(Uuid, i64)>) = if onto.is_some() {
            let removed = changed.iter().filter(|(_, score)| score.is_none());
            let scores = changed
                .iter()
                .filter_map(|(id, score)| Some((*id, (*score)?)));
            (removed.map(|(id, _)| *id).collect(), scores.collect())
        } else {
            (Vec::new(), self.window.scores().collect())
        };
        self.seq += 1;
        let meta = self.meta(moment);
        let published = self
            .publisher
            .publish(&Publication {
                onto,
                meta: &meta,
                removed: &removed,
                scores: &scores,
                time_to_live: Duration::from_secs(self.settings.window_seconds),
            })
            .await?;
        self.published =
            (published == Published::Done).then(|| (self.seq, self.window.cardinality()));
        Ok(published)
    }

    fn meta(&self, moment: &Moment) -> [(&'static str, String); 8] {
        let positions: Vec<String> = moment.positions.iter().map(i64::to_string).collect();
        let score = match self.settings.score {
            config::Score::Events => "events",
            config::Score::Seconds => "seconds",
        };
        [
            ("format", FORMAT.to_string()),
            ("as_of", self.window.as_of_us().to_string()),
            ("seq", self.seq.to_string()),
            ("complete", u8::from(moment.complete).to_string()),
            ("behind_ms", moment.behind.as_millis().to_string()),
            ("window_seconds", self.settings.window_seconds.to_string()),
            ("score", score.to_owned()),
            ("positions", positions.join(",")),
        ]
    }

    fn wrong_type(&self) -> Fault {
        let keys = self.publisher.keys();
        Fault::halt(
            "wrong_type",
            format!("redis keys {} or {} hold no board", keys.board, keys.meta),
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

/// Credentials halt; the rest passes.
fn classify(error: &RedisError) -> Fault {
    let reason = format!("redis: {error}");
    if error.is_denied() {
        return Fault::halt(
            "redis_credentials",
            reason,
            "set redis.url or FANOUT_REDIS_URL to the right user and password",
        );
    }
    Fault::retry(reason)
}
