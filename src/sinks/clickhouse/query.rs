//! Queries of the operator's commands: rows of the view as text, the records that
//! rows come from, titles.

use std::{collections::HashMap, time::Duration};

use clickhouse::{Client, Row, RowOwned, RowRead, query::RowCursor};
use futures_util::{Stream, stream};
use serde::Deserialize;
use uuid::Uuid;

use super::{CONTENT, FACTS};
use crate::{
    audit::row::{COLUMNS, DIGEST, MAX_TEXT, RangeSum, RowOrigin, TextRow},
    connections::clickhouse::{
        ClickHouse, ClickHouseError, Endpoint, InvalidUrl, bounded, endpoint,
    },
    sinks::inspect::Title,
};

/// The view.
pub(super) const VIEW: &str = "engagement_enriched";

/// A row of the view, as [`select`] returns it.
#[derive(Debug, Row, Deserialize)]
struct ViewRow {
    event_id: i64,
    content_id: Option<String>,
    user_id: Option<String>,
    event_type: Option<String>,
    event_ts: Option<String>,
    duration_ms: Option<String>,
    engagement_seconds: Option<String>,
    engagement_pct: Option<String>,
    device: Option<String>,
    raw_payload: Option<String>,
    content_type: Option<String>,
    length_seconds: Option<String>,
}

/// A [`RangeSum`] as ClickHouse returns it.
#[derive(Debug, Row, Deserialize)]
struct SumRow {
    rows: u64,
    digest: String,
}

/// A [`RowOrigin`] as ClickHouse returns it.
#[derive(Debug, Row, Deserialize)]
struct OriginRow {
    event_id: i64,
    partition: i32,
    offset: i64,
    version_offset: i64,
}

impl From<ViewRow> for TextRow {
    fn from(row: ViewRow) -> Self {
        Self {
            id: row.event_id,
            // In the order of `COLUMNS`.
            cells: [
                row.content_id,
                row.user_id,
                row.event_type,
                row.event_ts,
                row.duration_ms,
                row.engagement_seconds,
                row.engagement_pct,
                row.device,
                row.raw_payload,
                row.content_type,
                row.length_seconds,
            ],
        }
    }
}

impl From<SumRow> for RangeSum {
    fn from(row: SumRow) -> Self {
        Self {
            rows: row.rows,
            digest: row.digest,
        }
    }
}

impl From<OriginRow> for RowOrigin {
    fn from(row: OriginRow) -> Self {
        Self {
            event_id: row.event_id,
            partition: row.partition,
            offset: row.offset,
            version_offset: row.version_offset,
        }
    }
}

/// The offset in the upper half of the latest version.
const VERSION_OFFSET: &str =
    "toInt64(bitAnd(bitShiftRight(max(_version), 64), toUInt128(281474976710655)))";

#[derive(Debug, Row, Deserialize)]
struct IdRow {
    id: i64,
}

#[derive(Debug, Row, Deserialize)]
struct TitleRow {
    id: String,
    title: String,
    content_type: Option<String>,
}

/// Reads fanout's database.
#[derive(Clone)]
pub struct Query {
    client: Client,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Query").finish_non_exhaustive()
    }
}

/// The setting that limits how many seconds the server works on a query.
const MAX_TIME: &str = "max_execution_time";

/// Time after which the server gives up an answer whose reader may be gone.
const LONGEST_STREAM: Duration = Duration::from_secs(3600);

/// Maximum number of rows in a piece.
const PIECE: usize = 256;

/// Timeout of an answer, and of each row of a stream.
const PATIENCE: Duration = Duration::from_mins(2);

/// Ids in one query. This many are well below `max_query_size`, 256 KiB.
const MAX_IDS: usize = 1_000;

/// Maximum size of an answer that is kept in memory, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Reads the rows of a cursor in pieces.
fn pieces<T, U>(cursor: RowCursor<T>) -> impl Stream<Item = Result<Vec<U>, ClickHouseError>>
where
    T: RowOwned + RowRead,
    U: From<T>,
{
    stream::try_unfold(Some(cursor), piece::<T, U>)
}

/// Reads a piece. Returns it with the cursor, unless the rows have ended.
async fn piece<T, U>(
    cursor: Option<RowCursor<T>>,
) -> Result<Option<(Vec<U>, Option<RowCursor<T>>)>, ClickHouseError>
where
    T: RowOwned + RowRead,
    U: From<T>,
{
    let Some(mut cursor) = cursor else {
        return Ok(None);
    };
    let mut piece = Vec::new();
    while piece.len() < PIECE {
        let Some(row) = bounded(PATIENCE, cursor.next()).await? else {
            return Ok(Some((piece, None)));
        };
        piece.push(U::from(row));
    }
    Ok(Some((piece, Some(cursor))))
}

impl ClickHouse {
    /// Returns the queries of the operator's commands.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn query(&self) -> Result<Query, InvalidUrl> {
        let endpoint = endpoint(&self.connection)?;
        Ok(Query::new(&endpoint, &self.database))
    }
}

impl Query {
    /// Connects to nothing before the first query.
    fn new(endpoint: &Endpoint, database: &str) -> Self {
        Self {
            // A query that times out here is also given up by the server.
            client: endpoint
                .client()
                .with_database(database)
                .with_setting(MAX_TIME, PATIENCE.as_secs().to_string()),
        }
    }

    /// Starts a query whose answer takes as long as its reader, up to [`LONGEST_STREAM`].
    fn stream(&self, sql: &str) -> clickhouse::query::Query {
        let seconds = LONGEST_STREAM.as_secs().to_string();
        self.client.query(sql).with_setting(MAX_TIME, seconds)
    }

    /// Reads the rows of the view from one id to another, both included, in the order
    /// of their ids.
    ///
    /// # Errors
    /// When the server does not take the query.
    pub(super) fn rows(
        &self,
        first: i64,
        last: i64,
    ) -> Result<impl Stream<Item = Result<Vec<TextRow>, ClickHouseError>>, ClickHouseError> {
        let sql = format!(
            "{} WHERE event_id BETWEEN ? AND ? ORDER BY event_id",
            select()
        );
        let query = self.stream(&sql).bind(first).bind(last);
        Ok(pieces::<ViewRow, TextRow>(query.fetch()?))
    }

    /// Returns the sum of the rows of the view from one id to another, both included.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn sum(&self, first: i64, last: i64) -> Result<RangeSum, ClickHouseError> {
        let part = |column: &&str| {
            format!("ifNull(concat(toString(length({column})), ':', {column}), '-')")
        };
        let parts: Vec<String> = COLUMNS.iter().map(part).collect();
        let sql = format!(
            "SELECT count() AS rows, toString(sum(toUInt128(bitShiftRight(reinterpretAsUInt64(\
             reverse(substring(MD5(text), 1, 8))), 4)))) AS digest FROM (\
             SELECT concat(toString(event_id), ',', {}) AS text FROM (\
             {} WHERE event_id BETWEEN ? AND ?))",
            parts.join(", ',', "),
            select()
        );
        let query = self.client.query(&sql).bind(first).bind(last);
        let row: SumRow = bounded(PATIENCE, query.fetch_one()).await?;
        Ok(row.into())
    }

    /// Returns the rows of the view that have these ids, in the order of their ids.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn rows_of(&self, ids: &[i64]) -> Result<Vec<TextRow>, ClickHouseError> {
        let sql = format!("{} WHERE event_id IN ? ORDER BY event_id", select());
        let rows: Vec<ViewRow> = self.by_id(&sql, ids).await?;
        let mut rows: Vec<TextRow> = rows.into_iter().map(TextRow::from).collect();
        // Each query returns its rows in order, but the ids may come in any order.
        rows.sort_by_key(|row| row.id);
        Ok(rows)
    }

    /// Reads the origins of all rows of a partition, including deleted rows.
    ///
    /// # Errors
    /// When the server does not take the query.
    pub(super) fn origins(
        &self,
        partition: i32,
    ) -> Result<impl Stream<Item = Result<Vec<RowOrigin>, ClickHouseError>>, ClickHouseError> {
        let sql = format!(
            "SELECT event_id, argMax(_partition, _version) AS partition, \
             argMax(_offset, _version) AS offset, \
             {VERSION_OFFSET} AS version_offset FROM {FACTS} WHERE _partition = ? GROUP BY event_id"
        );
        let query = self.stream(&sql).bind(partition);
        Ok(pieces::<OriginRow, RowOrigin>(query.fetch()?))
    }

    /// Returns the origins of the rows that have these ids, including deleted rows.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn origins_of(&self, ids: &[i64]) -> Result<Vec<RowOrigin>, ClickHouseError> {
        let sql = format!(
            "SELECT event_id, argMax(_partition, _version) AS partition, \
             argMax(_offset, _version) AS offset, \
             {VERSION_OFFSET} AS version_offset FROM {FACTS} WHERE event_id IN ? GROUP BY event_id"
        );
        let rows: Vec<OriginRow> = self.by_id(&sql, ids).await?;
        Ok(rows.into_iter().map(RowOrigin::from).collect())
    }

    /// Runs a query that takes a list of ids, with a part of the list at a time.
    async fn by_id<T>(&self, sql: &str, ids: &[i64]) -> Result<Vec<T>, ClickHouseError>
    where
        T: RowOwned + RowRead,
    {
        let mut rows = Vec::new();
        for some in ids.chunks(MAX_IDS) {
            let query = self.client.query(sql).bind(some);
            rows.extend(bounded(PATIENCE, query.fetch_all::<T>()).await?);
        }
        Ok(rows)
    }

    /// Returns the events between two times, the first excluded and the last included,
    /// that lie more than `skew_us` ahead of their record.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn ahead_of_their_record(
        &self,
        after_us: i64,
        until_us: i64,
        skew_us: i64,
    ) -> Result<Vec<i64>, ClickHouseError> {
        let sql = format!(
            "SELECT event_id AS id FROM {FACTS} FINAL WHERE _deleted = 0 \
             AND toUnixTimestamp64Micro(event_ts) > ? AND toUnixTimestamp64Micro(event_ts) <= ? \
             AND toUnixTimestamp64Micro(event_ts) > toUnixTimestamp64Milli(_record_ts) * 1000 + ?"
        );
        let query = self.client.query(&sql);
        let query = query.bind(after_us).bind(until_us).bind(skew_us);
        let rows: Vec<IdRow> = bounded(PATIENCE, query.fetch_all()).await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Returns the titles of these pieces of content.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn titles(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Title>, ClickHouseError> {
        let sql = format!(
            "SELECT toString(id) AS id, title, CAST(content_type, 'Nullable(String)') AS content_type \
             FROM {CONTENT} FINAL WHERE _deleted = 0 AND {CONTENT}.id IN ?"
        );
        let mut titles = HashMap::new();
        for some in ids.chunks(MAX_IDS) {
            let texts: Vec<String> = some.iter().map(Uuid::to_string).collect();
            let query = self.client.query(&sql).bind(texts);
            let rows: Vec<TitleRow> = bounded(PATIENCE, query.fetch_all()).await?;
            titles.extend(rows.into_iter().filter_map(|row| {
                let title = Title {
                    title: row.title,
                    content_type: row.content_type,
                };
                Some((Uuid::parse_str(&row.id).ok()?, title))
            }));
        }
        Ok(titles)
    }

    /// Runs a query and returns its rows as lines of JSON.
    ///
    /// # Errors
    /// When the server does not answer, or the answer is longer than 64 MiB.
    pub async fn json_lines(&self, sql: &str) -> Result<Vec<String>, ClickHouseError> {
        // The crate reads `?` as a placeholder for a value.
        let sql = sql.replace('?', "??");
        let mut cursor = self.client.query(&sql).fetch_bytes("JSONEachRow")?;
        let mut bytes = Vec::new();
        while let Some(piece) = bounded(PATIENCE, cursor.next()).await? {
            if bytes.len() + piece.len() > MAX_ANSWER {
                let limit = MAX_ANSWER >> 20;
                let error = format!("the answer is longer than {limit} MiB");
                return Err(ClickHouseError::Other(error.into()));
            }
            bytes.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Returns the query of the view's rows, with its columns as [`TextRow`] has them.
fn select() -> String {
    let text = |column: &str| {
        format!(
            "CAST(if(length({VIEW}.{column}) > {MAX_TEXT} \
             OR startsWith(assumeNotNull({VIEW}.{column}), '{DIGEST}'), \
             concat('{DIGEST}', lower(hex(MD5(assumeNotNull({VIEW}.{column}))))), \
             {VIEW}.{column}), 'Nullable(String)') AS {column}"
        )
    };
    let shown = |column: &str| format!("CAST({VIEW}.{column}, 'Nullable(String)') AS {column}");
    let decimal = |column: &str, digits: u8| {
        format!("CAST(toDecimalString({VIEW}.{column}, {digits}), 'Nullable(String)') AS {column}")
    };
    let columns = [
        shown("content_id"),
        shown("user_id"),
        shown("event_type"),
        format!("CAST(toString({VIEW}.event_ts), 'Nullable(String)') AS event_ts"),
        shown("duration_ms"),
        decimal("engagement_seconds", 3),
        decimal("engagement_pct", 2),
        text("device"),
        text("raw_payload"),
        shown("content_type"),
        shown("length_seconds"),
    ];
    format!("SELECT event_id, {} FROM {VIEW}", columns.join(", "))
}
