//! The join in Postgres, as of one moment: what the view has to equal.

use super::compare::{COLUMNS, Row};
use crate::clients::{
    clickhouse::MAX_TEXT,
    postgres::{self, Client, PostgresError},
};

/// A connection that sees Postgres as it was at its first question.
#[derive(Debug)]
pub struct Source {
    client: Client,
}

impl Source {
    /// Takes a snapshot.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn snapshot(url: &str) -> Result<Self, PostgresError> {
        let client = postgres::connect(url).await?;
        // The question takes the snapshot; beginning does not.
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
            .await?;
        Ok(Self { client })
    }

    /// The connection, for other questions about the same moment.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The rows from this id on, at most `limit`, by id.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn rows(&self, first: i64, limit: usize) -> Result<Vec<Row>, PostgresError> {
        let sql = format!("{} WHERE e.id >= $1 ORDER BY e.id LIMIT $2", select());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.client.query(&sql, &[&first, &limit]).await?;
        rows.iter().map(row).collect()
    }

    /// The rows with these ids, by id.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn rows_of(&self, ids: &[i64]) -> Result<Vec<Row>, PostgresError> {
        let sql = format!("{} WHERE e.id = ANY ($1) ORDER BY e.id", select());
        let rows = self.client.query(&sql, &[&ids]).await?;
        rows.iter().map(row).collect()
    }
}

fn row(row: &postgres::Row) -> Result<Row, PostgresError> {
    let mut cells: [Option<String>; COLUMNS.len()] = Default::default();
    for (place, cell) in (1..).zip(&mut cells) {
        *cell = row.try_get(place)?;
    }
    Ok(Row {
        id: row.try_get(0)?,
        cells,
    })
}

/// The join, its columns as text in the order of [`COLUMNS`] and in the form
/// of the view's. The percentage is rounded by Postgres' numeric.
fn select() -> String {
    let text = |column: &str| {
        format!(
            "CASE WHEN octet_length(e.{column}::text) > {MAX_TEXT} \
             THEN 'md5:' || md5(e.{column}::text) ELSE e.{column}::text END"
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
