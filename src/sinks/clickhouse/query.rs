//! What operators ask ClickHouse: rows of the view as text, in order and a
//! piece at a time; where rows came from; titles.

use std::{collections::HashMap, time::Duration};

use clickhouse::{Client, Row, RowOwned, RowRead, query::RowCursor};
use serde::Deserialize;
use uuid::Uuid;

use super::{CONTENT, FACTS};
use crate::{
    connections::clickhouse::{
        ClickHouse, ClickHouseError, Endpoint, InvalidUrl, bounded, endpoint,
    },
    sinks::inspect::Title,
};

/// The view.
pub(super) const VIEW: &str = "engagement_enriched";

/// Texts longer than this many bytes are compared by their MD5.
pub const MAX_TEXT: usize = 1024;

/// What a text's MD5 is shown behind. A text that begins with this is compared by
/// its MD5, too, so that none passes for the MD5 of another.
pub const DIGEST: &str = "md5:";

/// A row of the view: every column but `processed_at`, as text. Decimals have
/// all their digits, times are UTC to the microsecond, a text longer than
/// [`MAX_TEXT`] is [`DIGEST`] and its MD5.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct TextRow {
    pub event_id: i64,
    pub content_id: Option<String>,
    pub user_id: Option<String>,
    pub event_type: Option<String>,
    pub event_ts: Option<String>,
    pub duration_ms: Option<String>,
    pub engagement_seconds: Option<String>,
    pub engagement_pct: Option<String>,
    pub device: Option<String>,
    pub raw_payload: Option<String>,
    pub content_type: Option<String>,
    pub length_seconds: Option<String>,
}

/// The columns of [`TextRow`] after its id, in its order.
pub const COLUMNS: [&str; 11] = [
    "content_id",
    "user_id",
    "event_type",
    "event_ts",
    "duration_ms",
    "engagement_seconds",
    "engagement_pct",
    "device",
    "raw_payload",
    "content_type",
    "length_seconds",
];

/// What the rows of a range of ids come to: two ranges of the same sum hold the
/// same rows.
///
/// Each row is a text: its id, then each column of [`TextRow`] after a comma, as
/// its length in bytes, a colon and itself, or `-` where it is null. The digest
/// is the sum of the first 60 bits of the MD5s of these texts.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Sum {
    pub rows: u64,
    pub digest: String,
}

/// Which record a stored row is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct OriginRow {
    pub event_id: i64,
    pub partition: i32,
    pub offset: i64,
    /// The offset that its version was made from: the same.
    pub version_offset: i64,
}

/// The offset in the upper half of a version.
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

/// How many seconds the server works on a question.
const MAX_TIME: &str = "max_execution_time";

/// After this a server gives up an answer whose reader may be gone.
const LONGEST_STREAM: Duration = Duration::from_secs(3600);

/// A stream of rows.
pub struct Rows<T>(RowCursor<T>);

/// How long the answer to a question, or the next row of one, may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Ids in one statement. So many are well within `max_query_size`, 256 KiB.
const MAX_IDS: usize = 1_000;

/// The most of an answer that is kept in memory at once, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

impl<T> std::fmt::Debug for Rows<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rows").finish_non_exhaustive()
    }
}

impl Rows<TextRow> {
    /// The next row; none at the end.
    pub async fn next(&mut self) -> Result<Option<TextRow>, ClickHouseError> {
        bounded(PATIENCE, self.0.next()).await
    }
}

impl Rows<OriginRow> {
    /// The next row; none at the end.
    pub async fn next(&mut self) -> Result<Option<OriginRow>, ClickHouseError> {
        bounded(PATIENCE, self.0.next()).await
    }
}

impl ClickHouse {
    /// What operators ask.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn query(&self) -> Result<Query, InvalidUrl> {
        let endpoint = endpoint(&self.connection)?;
        Ok(Query::new(&endpoint, &self.database))
    }
}

impl Query {
    /// Nothing is sent before the first question.
    fn new(endpoint: &Endpoint, database: &str) -> Self {
        Self {
            // A question that is given up here is given up there too.
            client: endpoint
                .client()
                .with_database(database)
                .with_setting(MAX_TIME, PATIENCE.as_secs().to_string()),
        }
    }

    /// A question whose answer takes as long as its reader, within reason.
    fn stream(&self, sql: &str) -> clickhouse::query::Query {
        let seconds = LONGEST_STREAM.as_secs().to_string();
        self.client.query(sql).with_setting(MAX_TIME, seconds)
    }

    /// The rows of the view from one id to another, both included, by id.
    ///
    /// # Errors
    /// When the server does not take the query.
    pub fn rows(&self, first: i64, last: i64) -> Result<Rows<TextRow>, ClickHouseError> {
        let sql = format!(
            "{} WHERE event_id BETWEEN ? AND ? ORDER BY event_id",
            select()
        );
        let query = self.stream(&sql).bind(first).bind(last);
        Ok(Rows(query.fetch()?))
    }

    /// What the rows of the view from one id to another, both included, come to.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn sum(&self, first: i64, last: i64) -> Result<Sum, ClickHouseError> {
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
        bounded(PATIENCE, query.fetch_one()).await
    }

    /// The rows of the view with these ids, by id.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn rows_of(&self, ids: &[i64]) -> Result<Vec<TextRow>, ClickHouseError> {
        let sql = format!("{} WHERE event_id IN ? ORDER BY event_id", select());
        let mut rows: Vec<TextRow> = self.by_id(&sql, ids).await?;
        // Each piece is in order, and the ids may be given in any.
        rows.sort_by_key(|row| row.event_id);
        Ok(rows)
    }

    /// From which record each row of a partition is, deleted ones too.
    ///
    /// # Errors
    /// When the server does not take the query.
    pub fn origins(&self, partition: i32) -> Result<Rows<OriginRow>, ClickHouseError> {
        let sql = format!(
            "SELECT event_id, argMax(_partition, _version) AS partition, \
             argMax(_offset, _version) AS offset, \
             {VERSION_OFFSET} AS version_offset FROM {FACTS} WHERE _partition = ? GROUP BY event_id"
        );
        Ok(Rows(self.stream(&sql).bind(partition).fetch()?))
    }

    /// From which record each of these rows is, deleted ones too.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn origins_of(&self, ids: &[i64]) -> Result<Vec<OriginRow>, ClickHouseError> {
        let sql = format!(
            "SELECT event_id, argMax(_partition, _version) AS partition, \
             argMax(_offset, _version) AS offset, \
             {VERSION_OFFSET} AS version_offset FROM {FACTS} WHERE event_id IN ? GROUP BY event_id"
        );
        self.by_id(&sql, ids).await
    }

    /// The answers to a statement with a list of ids in it, a piece of the list
    /// at a time.
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

    /// Events of a time, after the first and up to the last microsecond, that
    /// lie further ahead of their record than `skew_us`.
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

    /// The answer to a question as lines of JSON, one a row.
    ///
    /// # Errors
    /// When the server does not answer, or with more than 64 MiB.
    pub async fn json_lines(&self, sql: &str) -> Result<Vec<String>, ClickHouseError> {
        // The crate takes `?` for a place to bind a value.
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

/// The view's columns as [`TextRow`] has them.
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
