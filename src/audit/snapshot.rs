//! A snapshot of Postgres and its join, which the stored rows must equal.

use super::row::{COLUMNS, DIGEST, MAX_TEXT, RangeSum, TextRow};
use crate::connections::postgres::{self, Client, Postgres, PostgresError};

/// A connection with an open transaction that sees Postgres as it was when the
/// snapshot was taken.
#[derive(Debug)]
pub(crate) struct Snapshot {
    client: Client,
}

impl Snapshot {
    /// Takes a snapshot.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn take(postgres: &Postgres) -> Result<Self, PostgresError> {
        let client = postgres.connect().await?;
        // The first query takes the snapshot; `BEGIN` does not.
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
            .await?;
        Ok(Self { client })
    }

    /// Returns the connection, for other queries of the same snapshot.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Counts the rows.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn count(&self) -> Result<u64, PostgresError> {
        let sql = "SELECT count(*) FROM public.engagement_events";
        let count: i64 = self.client.query_one(sql, &[]).await?.try_get(0)?;
        Ok(count.unsigned_abs())
    }

    /// Returns the id of row number `rows`, counted from the id `first` on, or `None` if
    /// there are fewer rows.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn last_of(
        &self,
        first: i64,
        rows: i64,
    ) -> Result<Option<i64>, PostgresError> {
        let sql = "SELECT id FROM public.engagement_events WHERE id >= $1
                   ORDER BY id OFFSET $2 LIMIT 1";
        let found = self.client.query_opt(sql, &[&first, &(rows - 1)]).await?;
        found.map(|row| row.try_get(0)).transpose()
    }

    /// Returns the sum of the rows from one id to another, both included.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn sum(&self, first: i64, last: i64) -> Result<RangeSum, PostgresError> {
        let names: Vec<String> = (0..COLUMNS.len())
            .map(|place| format!("c{place}"))
            .collect();
        let part =
            |name: &String| format!("coalesce(octet_length({name})::text || ':' || {name}, '-')");
        let parts: Vec<String> = names.iter().map(part).collect();
        let sql = format!(
            "SELECT count(*), coalesce(sum(
                ('x' || substr(md5(id || ',' || {}), 1, 15))::bit(60)::bigint), 0)::text
             FROM ({} WHERE e.id BETWEEN $1 AND $2) AS joined (id, {})",
            parts.join(" || ',' || "),
            select(),
            names.join(", "),
        );
        let row = self.client.query_one(&sql, &[&first, &last]).await?;
        let count: i64 = row.try_get(0)?;
        Ok(RangeSum {
            rows: count.unsigned_abs(),
            digest: row.try_get(1)?,
        })
    }

    /// Returns the rows from one id to another, both included, in the order of their
    /// ids.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn rows(&self, first: i64, last: i64) -> Result<Vec<TextRow>, PostgresError> {
        let sql = format!("{} WHERE e.id BETWEEN $1 AND $2 ORDER BY e.id", select());
        let rows = self.client.query(&sql, &[&first, &last]).await?;
        rows.iter().map(row).collect()
    }

    /// Returns the rows that have these ids, in the order of their ids.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn rows_of(&self, ids: &[i64]) -> Result<Vec<TextRow>, PostgresError> {
        let sql = format!("{} WHERE e.id = ANY ($1) ORDER BY e.id", select());
        let rows = self.client.query(&sql, &[&ids]).await?;
        rows.iter().map(row).collect()
    }
}

fn row(row: &postgres::Row) -> Result<TextRow, PostgresError> {
    let mut cells: [Option<String>; COLUMNS.len()] = Default::default();
    for (place, cell) in (1..).zip(&mut cells) {
        *cell = row.try_get(place)?;
    }
    Ok(TextRow {
        id: row.try_get(0)?,
        cells,
    })
}

/// Returns the join, with its columns as [`TextRow`] has them. Postgres' numeric
/// rounds the percentage.
fn select() -> String {
    let text = |column: &str| {
        format!(
            "CASE WHEN octet_length(e.{column}::text) > {MAX_TEXT} \
                 OR starts_with(e.{column}::text, '{DIGEST}') \
             THEN '{DIGEST}' || md5(e.{column}::text) ELSE e.{column}::text END"
        )
    };
    format!(
        "SELECT e.id, e.content_id::text, e.user_id::text, e.event_type::text,
            CASE WHEN isfinite(e.event_ts)
                THEN to_char(e.event_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
                ELSE e.event_ts::text END,
            e.duration_ms::text,
            (e.duration_ms / 1000.0)::numeric(13,3)::text,
            CASE WHEN c.length_seconds > 0
                THEN round((e.duration_ms / 1000.0) / c.length_seconds, 2)::numeric(12,2)::text END,
            {}, {}, c.content_type::text, c.length_seconds::text
        FROM public.engagement_events e LEFT JOIN public.content c ON c.id = e.content_id",
        text("device"),
        text("raw_payload"),
    )
}
