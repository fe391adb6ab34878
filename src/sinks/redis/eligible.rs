//! Queries of the events that belong on the board at a moment, according to Postgres.
//! They explain the scores of the board and are compared with it.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    config::{Board, Score},
    connections::{
        clickhouse::ClickHouseError,
        postgres::{Client, PostgresError, ToSql},
    },
    sinks::clickhouse::Query,
    time::timestamp::{MICROS_PER_SECOND, Rfc3339},
};

/// Maximum number of ids in the parameters of one query.
const IDS_PER_QUERY: usize = 10_000;

/// Maximum number of ids in the result of one query.
const IDS_PER_RESULT: i64 = 50_000;

/// A window and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// End of the window (inclusive), in microseconds since the epoch.
    pub as_of_us: i64,
    pub window_seconds: u64,
}

/// Number and total duration of one content item's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub events: i64,
    /// Sum of the durations. A negative duration counts as 0.
    pub duration_ms: i64,
}

/// One event of a content item.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CountedEvent {
    pub id: i64,
    pub event_type: Option<String>,
    /// UTC, to the microsecond.
    pub event_ts: String,
    pub duration_ms: Option<i32>,
    pub device: Option<String>,
    /// Whether the event is too far ahead of its record to be on the board.
    pub ahead: bool,
}

impl Moment {
    /// Returns the last microsecond before the window.
    #[must_use]
    pub fn after_us(&self) -> i64 {
        let window = i64::try_from(self.window_seconds).unwrap_or(i64::MAX);
        self.as_of_us
            .saturating_sub(window.saturating_mul(MICROS_PER_SECOND))
    }
}

impl Sum {
    /// Adds another sum.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.duration_ms += other.duration_ms;
    }

    /// Returns the score of this kind.
    #[must_use]
    pub fn score(&self, by: Score) -> i64 {
        match by {
            Score::Events => self.events,
            Score::Seconds => self.duration_ms.div_euclid(1_000),
        }
    }
}

/// Returns the events of the window that are too far ahead of their record, according to
/// the record times in ClickHouse.
///
/// # Errors
/// If ClickHouse does not respond.
pub async fn ahead(
    query: &Query,
    board: &Board,
    moment: Moment,
) -> Result<Vec<i64>, ClickHouseError> {
    let skew = i64::try_from(board.skew_seconds).unwrap_or(i64::MAX);
    let skew_us = skew.saturating_mul(MICROS_PER_SECOND);
    query
        .ahead_of_their_record(moment.after_us(), moment.as_of_us, skew_us)
        .await
}

/// Sums of a window's events, by content id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums(pub HashMap<Uuid, Sum>);

impl Sums {
    /// Adds other sums.
    pub fn add(&mut self, others: &Self) {
        for (content, sum) in &others.0 {
            self.0.entry(*content).or_default().add(*sum);
        }
    }

    /// Subtracts other sums. Removes content items without events, because they are not
    /// on the board.
    pub fn subtract(&mut self, others: &Self) {
        for (content, sum) in &others.0 {
            let remaining = self.0.entry(*content).or_default();
            remaining.events -= sum.events;
            remaining.duration_ms -= sum.duration_ms;
            if remaining.events <= 0 {
                self.0.remove(content);
            }
        }
    }
}

/// Returns the sums of all events of the window.
///
/// # Errors
/// If Postgres does not respond.
pub async fn sums(client: &Client, moment: Moment) -> Result<Sums, PostgresError> {
    sums_where(client, moment, "true", &[]).await
}

/// Returns the sums of these events, as far as they are in the window. There may be any
/// number of them.
///
/// # Errors
/// If Postgres does not respond.
pub async fn sums_of(
    client: &Client,
    moment: Moment,
    events: &[i64],
) -> Result<Sums, PostgresError> {
    let mut sums = Sums::default();
    for ids in events.chunks(IDS_PER_QUERY) {
        let condition = "id = ANY ($3)";
        sums.add(&sums_where(client, moment, condition, &[&ids]).await?);
    }
    Ok(sums)
}

async fn sums_where(
    client: &Client,
    moment: Moment,
    condition: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Sums, PostgresError> {
    let sql = format!(
        "SELECT content_id, count(*), coalesce(sum(greatest(duration_ms, 0)), 0)::bigint
         FROM public.engagement_events
         WHERE content_id IS NOT NULL AND {condition}
           AND event_ts > $1::text::timestamptz AND event_ts <= $2::text::timestamptz
         GROUP BY content_id"
    );
    let after = Rfc3339(moment.after_us()).to_string();
    let until = Rfc3339(moment.as_of_us).to_string();
    let all: Vec<&(dyn ToSql + Sync)> = [&after as &(dyn ToSql + Sync), &until]
        .into_iter()
        .chain(parameters.iter().copied())
        .collect();
    let rows = client.query(&sql, &all).await?;
    let sums = rows.iter().map(|row| {
        let sum = Sum {
            events: row.try_get(1)?,
            duration_ms: row.try_get(2)?,
        };
        Ok((row.try_get(0)?, sum))
    });
    Ok(Sums(sums.collect::<Result<_, PostgresError>>()?))
}

/// Returns the ids of the window's events with any content id, or with this one. The ids
/// are sorted and start at `first`; their number is limited to one result.
///
/// # Errors
/// If Postgres does not respond.
pub async fn ids(
    client: &Client,
    moment: Moment,
    content: Option<Uuid>,
    first: i64,
) -> Result<Vec<i64>, PostgresError> {
    let sql = "SELECT id FROM public.engagement_events
               WHERE content_id IS NOT NULL AND id >= $1
                 AND event_ts > $2::text::timestamptz AND event_ts <= $3::text::timestamptz
                 AND ($4::uuid IS NULL OR content_id = $4)
               ORDER BY id LIMIT $5";
    let after = Rfc3339(moment.after_us()).to_string();
    let until = Rfc3339(moment.as_of_us).to_string();
    let rows = client
        .query(sql, &[&first, &after, &until, &content, &IDS_PER_RESULT])
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Returns the latest events of one content item, at most `limit`, latest first.
///
/// # Errors
/// If Postgres does not respond.
pub async fn events_of(
    client: &Client,
    moment: Moment,
    content: Uuid,
    ahead: &[i64],
    limit: i64,
) -> Result<Vec<CountedEvent>, PostgresError> {
    let sql = "SELECT id, event_type, duration_ms, device, id = ANY ($4),
                   to_char(event_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
               FROM public.engagement_events
               WHERE content_id = $3
                 AND event_ts > $1::text::timestamptz AND event_ts <= $2::text::timestamptz
               ORDER BY event_ts DESC, id DESC LIMIT $5";
    let after = Rfc3339(moment.after_us()).to_string();
    let until = Rfc3339(moment.as_of_us).to_string();
    let rows = client
        .query(sql, &[&after, &until, &content, &ahead, &limit])
        .await?;
    rows.iter()
        .map(|row| {
            Ok(CountedEvent {
                id: row.try_get(0)?,
                event_type: row.try_get(1)?,
                duration_ms: row.try_get(2)?,
                device: row.try_get(3)?,
                ahead: row.try_get(4)?,
                event_ts: row.try_get(5)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_at_its_start_and_closed_at_its_end() {
        let moment = Moment {
            as_of_us: 700_000_000,
            window_seconds: 600,
        };
        assert_eq!(moment.after_us(), 100_000_000);
    }

    #[test]
    fn subtracting_all_events_removes_the_content_item() {
        let sums = |counts: &[(u128, i64)]| {
            let entry = |(content, events): &(u128, i64)| {
                let sum = Sum {
                    events: *events,
                    duration_ms: events * 1_500,
                };
                (Uuid::from_u128(*content), sum)
            };
            Sums(counts.iter().map(entry).collect())
        };
        let mut all = sums(&[(1, 3), (2, 2)]);
        all.subtract(&sums(&[(1, 1)]));
        all.subtract(&sums(&[(2, 2)]));
        assert_eq!(all, sums(&[(1, 2)]));
        all.add(&sums(&[(2, 1), (1, 1)]));
        assert_eq!(all, sums(&[(1, 3), (2, 1)]));
    }

    #[test]
    fn seconds_are_rounded_down() {
        let sum = Sum {
            events: 3,
            duration_ms: 2_999,
        };
        assert_eq!(sum.score(Score::Events), 3);
        assert_eq!(sum.score(Score::Seconds), 2);
    }
}
