//! `seed`: writes generated content and events into the source: a few for a demo, many for a
//! measurement, or a steady load.

mod made;

use std::{io::Cursor, time::Duration};

use futures_util::SinkExt as _;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use made::{Made, Maker, Piece, piece};

use crate::{
    connections::{
        Connections,
        postgres::{self, Client, PostgresError},
    },
    failure::{Command, Error, Failure as _, Hint, Kind},
    progress::{Progress, Unit, steps::Steps},
    source::explain,
    time::clock::now_us,
};

/// Maximum number of events in one transaction.
const BATCH: u64 = 5_000;

/// Interval between two transactions of a load with a rate.
const TICK: Duration = Duration::from_millis(10);

/// Default number of events.
const DEFAULT_EVENTS: u64 = 2;

/// Options of `seed`.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Number of contents. The contents are always the same.
    pub content: u32,
    /// Number of events. `None` means the product of rate and duration, or the default number
    /// if there is no rate.
    pub events: Option<u64>,
    /// Events per second. `None` means as fast as possible.
    pub rate: Option<f64>,
    /// Duration of a load.
    pub duration: Option<Duration>,
    pub rng_seed: u64,
}

/// Result of `seed`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seeded {
    /// Number of contents that exist now.
    pub content: u32,
    /// Number of contents that were new or changed.
    pub content_written: u64,
    pub events: u64,
    /// First id of an event. Ids up to the last one may include those of other writers.
    pub first_id: Option<i64>,
    pub last_id: Option<i64>,
    pub seconds: f64,
    pub rng_seed: u64,
}

impl Options {
    /// Returns true if the load runs until it is stopped.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.rate.is_some() && self.total().is_none() && self.duration.is_none()
    }

    /// Returns the total number of events, or `None` if there is no limit.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        match (self.events, self.rate, self.duration) {
            (Some(events), _, _) => Some(events),
            (None, Some(rate), Some(duration)) => Some(to_count(rate * duration.as_secs_f64())),
            (None, Some(_), None) => None,
            (None, None, _) => Some(DEFAULT_EVENTS),
        }
    }

    /// Returns the number of events that must be written after this time.
    fn due(&self, elapsed: Duration) -> u64 {
        let by_rate = self
            .rate
            .map_or(u64::MAX, |rate| to_count(rate * elapsed.as_secs_f64()));
        by_rate.min(self.total().unwrap_or(u64::MAX))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of events, rounded down; the cast saturates"
)]
fn to_count(count: f64) -> u64 {
    count as u64
}

/// Writes the content, then events until the number is reached, the duration is over, or `stop`
/// is cancelled.
///
/// # Errors
/// If Postgres refuses them.
pub async fn seed(
    connections: &Connections,
    options: &Options,
    stop: &CancellationToken,
    progress: &dyn Progress,
) -> Result<Seeded, Error> {
    match write(connections, options, stop, progress).await {
        Ok(seeded) => Ok(seeded),
        Err(error) => Err(write_error(connections, error).await),
    }
}

/// Returns the error for a failed write. If the source database is unsuitable,
/// the error says why.
async fn write_error(connections: &Connections, error: PostgresError) -> Error {
    let failed = |kind, code| Error::new(kind, code, "cannot write to postgres");
    if postgres::is_unreachable(&error) {
        return failed(Kind::Environment, "postgres")
            .with_hint(Command::new("up").argument("postgres"))
            .caused_by(error);
    }
    let Some(refusal) = explain(connections).await else {
        return failed(Kind::Failed, "postgres")
            .with_hint(Command::new("doctor").switch("--source"))
            .caused_by(error);
    };
    let failed = failed(refusal.kind(), refusal.code());
    let failed = match refusal.hint() {
        Some(hint) => failed.with_hint(Hint::unparsed(hint)),
        None => failed,
    };
    failed.caused_by(refusal)
}

async fn write(
    connections: &Connections,
    options: &Options,
    stop: &CancellationToken,
    progress: &dyn Progress,
) -> Result<Seeded, PostgresError> {
    let steps = Steps::new(progress, "seed");
    let client = connections.postgres.connect().await?;
    let mut seeded = Seeded {
        content: options.content,
        content_written: upsert_content(&client, options.content).await?,
        events: 0,
        first_id: None,
        last_id: None,
        seconds: 0.0,
        rng_seed: options.rng_seed,
    };
    let mut maker = Maker::new(options.rng_seed, options.content);
    let total = options.total();
    let started = Instant::now();
    loop {
        let now = Instant::now();
        let elapsed = now - started;
        let due = options.due(elapsed);
        let batch = due.saturating_sub(seeded.events).min(BATCH);
        if batch > 0 {
            let ids = insert_events(&client, &mut maker, batch).await?;
            seeded.first_id = seeded.first_id.or(ids.first().copied());
            seeded.last_id = ids.last().copied().or(seeded.last_id);
            seeded.events += batch;
            steps.advanced(seeded.events, total, Unit::Events);
        }
        let is_over = options.duration.is_some_and(|limit| elapsed >= limit);
        let is_complete = total.is_some_and(|total| seeded.events >= total);
        if is_over || is_complete || stop.is_cancelled() {
            break;
        }
        if options.rate.is_some() {
            sleep_until(now + TICK).await;
        }
    }
    seeded.seconds = started.elapsed().as_secs_f64();
    Ok(seeded)
}

/// Writes the contents. Returns the number of new or changed ones.
async fn upsert_content(client: &Client, count: u32) -> Result<u64, PostgresError> {
    let upsert = "
        INSERT INTO public.content AS old (id, slug, title, content_type, length_seconds, publish_ts)
        SELECT id, slug, title, content_type, length_seconds, publish_ts::timestamptz
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[])
            AS new (id, slug, title, content_type, length_seconds, publish_ts)
        ON CONFLICT (id) DO UPDATE SET slug = excluded.slug, title = excluded.title,
            content_type = excluded.content_type, length_seconds = excluded.length_seconds,
            publish_ts = excluded.publish_ts
        WHERE (old.slug, old.title, old.content_type, old.length_seconds, old.publish_ts)
            IS DISTINCT FROM (excluded.slug, excluded.title, excluded.content_type,
                excluded.length_seconds, excluded.publish_ts)";
    let mut written = 0;
    let numbers: Vec<u32> = (0..count).collect();
    for chunk in numbers.chunks(1_000) {
        let pieces: Vec<Piece> = chunk.iter().map(|number| piece(*number)).collect();
        let column = |get: fn(&Piece) -> &str| pieces.iter().map(get).collect::<Vec<_>>();
        let ids: Vec<_> = pieces.iter().map(|piece| piece.id).collect();
        let lengths: Vec<_> = pieces.iter().map(|piece| piece.length_seconds).collect();
        let slugs = column(|piece| &piece.slug);
        let titles = column(|piece| &piece.title);
        let kinds = column(|piece| piece.content_type);
        let times = column(|piece| &piece.publish_ts);
        written += client
            .execute(upsert, &[&ids, &slugs, &titles, &kinds, &lengths, &times])
            .await?;
    }
    Ok(written)
}

/// Writes events in one transaction and returns their ids. The ids are taken from the table's
/// sequence first.
async fn insert_events(
    client: &Client,
    maker: &mut Maker,
    count: u64,
) -> Result<Vec<i64>, PostgresError> {
    let take_ids = "SELECT nextval(pg_get_serial_sequence('public.engagement_events', 'id'))
                FROM generate_series(1, $1::bigint)";
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let rows = client.query(take_ids, &[&count]).await?;
    let ids: Vec<i64> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let now_us = now_us();
    let mut lines = Vec::with_capacity(ids.len() * 256);
    for id in &ids {
        maker.event().copy_line(*id, now_us, &mut lines);
    }
    let copy = "COPY public.engagement_events (id, content_id, user_id, event_type, event_ts,
                duration_ms, device, raw_payload) FROM STDIN";
    let sink = client.copy_in(copy).await?;
    futures_util::pin_mut!(sink);
    sink.send(Cursor::new(lines)).await?;
    sink.finish().await?;
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(events: Option<u64>, rate: Option<f64>, seconds: Option<u64>) -> Options {
        Options {
            content: 1,
            events,
            rate,
            duration: seconds.map(Duration::from_secs),
            rng_seed: 42,
        }
    }

    #[test]
    fn the_total_follows_from_events_rate_and_duration() {
        assert_eq!(options(None, None, None).total(), Some(2));
        assert_eq!(options(Some(9), Some(1.0), None).total(), Some(9));
        assert_eq!(options(None, Some(2.5), Some(4)).total(), Some(10));
        let endless = options(None, Some(100.0), None);
        assert_eq!(endless.total(), None);
        assert!(endless.is_endless());
        assert!(!options(None, Some(1.0), Some(1)).is_endless());
    }

    #[test]
    fn a_rate_spreads_events_over_time() {
        let load = options(Some(15), Some(10.0), None);
        for (millis, due) in [(0, 0), (99, 0), (100, 1), (1_050, 10), (9_000, 15)] {
            assert_eq!(load.due(Duration::from_millis(millis)), due, "{millis}");
        }
        assert_eq!(options(Some(7), None, None).due(Duration::ZERO), 7);
    }
}
