//! Typed rows and statements of the tables that fanout writes in ClickHouse.

use std::time::Duration;

use clickhouse::{Client, Row, insert::Insert, query::Query};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connections::clickhouse::{ClickHouse, ClickHouseError, Endpoint, InvalidUrl, endpoint};

/// Table with the enriched rows.
pub const FACTS: &str = "engagement_enriched_storage";
/// Table with the copy of the catalogue.
pub const CONTENT: &str = "content";
/// Table with the incarnations of the source's topics, as earlier releases recorded them.
pub const TOPICS: &str = "fanout_topics";

/// How much longer the client waits than the server, so that it receives the server's
/// reason for aborting a statement.
const GRACE: Duration = Duration::from_secs(2);

/// One row of the storage table, with its columns in order. Times are in the unit of their
/// column: microseconds for `event_ts`, otherwise milliseconds. Decimals are stored as
/// their mantissas.
#[derive(Debug, Clone, Row, Serialize, Deserialize)]
pub struct FactRow<'a> {
    pub event_id: i64,
    #[serde(with = "clickhouse::serde::uuid::option")]
    pub content_id: Option<Uuid>,
    #[serde(with = "clickhouse::serde::uuid::option")]
    pub user_id: Option<Uuid>,
    pub event_type: Option<&'a str>,
    pub event_ts: i64,
    pub duration_ms: Option<i32>,
    pub engagement_seconds: Option<i64>,
    pub engagement_pct: Option<i64>,
    pub device: Option<&'a str>,
    pub raw_payload: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub length_seconds: Option<i32>,
    pub processed_at: i64,
    pub _version: u128,
    pub _deleted: u8,
    pub _partition: i32,
    pub _offset: i64,
    pub _content_offset: u64,
    pub _record_ts: i64,
}

impl FactRow<'static> {
    /// Returns the row that deletes an event. Only the id and the version are set.
    #[must_use]
    pub fn deleted(event_id: i64, version: u128) -> Self {
        Self {
            event_id,
            content_id: None,
            user_id: None,
            event_type: None,
            event_ts: 0,
            duration_ms: None,
            engagement_seconds: None,
            engagement_pct: None,
            device: None,
            raw_payload: None,
            content_type: None,
            length_seconds: None,
            processed_at: 0,
            _version: version,
            _deleted: 1,
            _partition: 0,
            _offset: 0,
            _content_offset: 0,
            _record_ts: 0,
        }
    }
}

/// One row of the content table.
#[derive(Debug, Clone, Row, Serialize, Deserialize)]
pub struct ContentRow<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    pub id: Uuid,
    pub title: &'a str,
    pub content_type: Option<&'a str>,
    pub length_seconds: Option<i32>,
    pub processed_at: i64,
    pub _version: u64,
    pub _deleted: u8,
}

impl ContentRow<'static> {
    /// Returns the row that deletes a content.
    #[must_use]
    pub fn deleted(id: Uuid, version: u64, processed_at: i64) -> Self {
        Self {
            id,
            title: "",
            content_type: None,
            length_seconds: None,
            processed_at,
            _version: version,
            _deleted: 1,
        }
    }
}

/// One incarnation of a topic, as earlier releases recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct TopicRow {
    pub topic: String,
    #[serde(with = "clickhouse::serde::uuid")]
    pub topic_id: Uuid,
    pub partitions: i32,
    pub generation: u16,
    pub first_seen: i64,
    pub format: u16,
    /// Start offset of each partition. Empty means the start of the log.
    pub starts: Vec<i64>,
    /// 0 if the rebuild that started it is unfinished.
    pub settled: u8,
    /// Id of the storage table.
    #[serde(with = "clickhouse::serde::uuid")]
    pub table_id: Uuid,
    /// Position at which the source was truncated, `partition@offset`. Empty if it was
    /// not.
    pub truncated: String,
}

/// Engine and columns of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The engine with its arguments.
    pub engine: String,
    pub sorting_key: String,
    /// Name and type, in order.
    pub columns: Vec<(String, String)>,
}

#[derive(Debug, Row, Deserialize)]
struct EngineRow {
    engine: String,
    sorting_key: String,
}

#[derive(Debug, Row, Deserialize)]
struct ColumnRow {
    name: String,
    kind: String,
}

/// fanout's database on a ClickHouse server.
#[derive(Clone)]
pub struct Store {
    pub(crate) client: Client,
    database: String,
    timeout: Duration,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl ClickHouse {
    /// Returns the store of the tables that fanout writes. `lz4` compresses inserts.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn store(&self, lz4: bool, timeout: Duration) -> Result<Store, InvalidUrl> {
        let endpoint = endpoint(&self.connection)?;
        Ok(Store::new(&endpoint, &self.database, lz4, timeout))
    }
}

impl Store {
    /// Returns a store, without a connection yet. `lz4` compresses inserts.
    fn new(endpoint: &Endpoint, database: &str, lz4: bool, timeout: Duration) -> Self {
        let compression = if lz4 {
            clickhouse::Compression::Lz4
        } else {
            clickhouse::Compression::None
        };
        let client = endpoint
            .client()
            .with_database(database)
            .with_compression(compression)
            // The schema has been checked with `shape`.
            .with_validation(false)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            // Merges remove old versions anyway. Doing so at the insert costs a third more.
            .with_setting("optimize_on_insert", "0");
        Self {
            client,
            database: database.to_owned(),
            timeout,
        }
    }

    /// Returns a statement that the server aborts after the timeout. Otherwise it would
    /// continue while the client retries it.
    pub(crate) fn query(&self, sql: &str) -> Query {
        self.with_time_limit(self.client.query(sql))
    }

    /// Like [`Self::query`], for a statement in which `?` is not a placeholder.
    pub(super) fn raw_query(&self, sql: &str) -> Query {
        self.with_time_limit(self.client.query_raw(sql))
    }

    fn with_time_limit(&self, query: Query) -> Query {
        let seconds = self.timeout.as_millis().div_ceil(1000);
        query.with_setting("max_execution_time", seconds.to_string())
    }

    /// Awaits a response. Returns [`ClickHouseError::TimedOut`] if the server hangs, so that
    /// it does not block the caller. The server has aborted the statement by then.
    pub(super) async fn bounded<T>(
        &self,
        response: impl Future<Output = Result<T, ClickHouseError>>,
    ) -> Result<T, ClickHouseError> {
        tokio::time::timeout(self.timeout + GRACE, response)
            .await
            .unwrap_or(Err(ClickHouseError::TimedOut))
    }

    /// Starts an insert. No row is stored before [`Insert::end`].
    pub async fn insert<R: Row>(&self, table: &str) -> Result<Insert<R>, ClickHouseError> {
        let insert = self.bounded(self.client.insert::<R>(table)).await?;
        Ok(insert.with_timeouts(Some(self.timeout), Some(self.timeout)))
    }

    /// Returns the schema of a table, or `None` if the table does not exist.
    pub async fn shape(&self, table: &str) -> Result<Option<Shape>, ClickHouseError> {
        let engine = self
            .query(
                "SELECT engine_full AS engine, sorting_key FROM system.tables \
                 WHERE database = ? AND name = ?",
            )
            .bind(&self.database)
            .bind(table)
            .fetch_optional::<EngineRow>();
        let engine = self.bounded(engine).await?;
        let Some(EngineRow {
            engine,
            sorting_key,
        }) = engine
        else {
            return Ok(None);
        };
        let columns = self
            .query(
                "SELECT name, type AS kind FROM system.columns \
                 WHERE database = ? AND table = ? ORDER BY position",
            )
            .bind(&self.database)
            .bind(table)
            .fetch_all::<ColumnRow>();
        let columns = self.bounded(columns).await?;
        Ok(Some(Shape {
            engine,
            sorting_key,
            columns: columns
                .into_iter()
                .map(|row| (row.name, row.kind))
                .collect(),
        }))
    }

    /// Returns the id of a table, or `None` if the table does not exist. The id is nil if
    /// the server does not assign ids to tables.
    pub async fn table_id(&self, table: &str) -> Result<Option<Uuid>, ClickHouseError> {
        let id = self
            .query("SELECT toString(uuid) FROM system.tables WHERE database = ? AND name = ?")
            .bind(&self.database)
            .bind(table)
            .fetch_optional::<String>();
        let id = self.bounded(id).await?;
        Ok(id.map(|id| Uuid::parse_str(&id).unwrap_or_default()))
    }

    /// Returns the incarnations of a topic that earlier releases recorded, oldest first.
    pub async fn lives(&self, topic: &str) -> Result<Vec<TopicRow>, ClickHouseError> {
        let rows = self
            .query("SELECT ?fields FROM fanout_topics FINAL WHERE topic = ? ORDER BY generation")
            .bind(topic)
            .fetch_all::<TopicRow>();
        self.bounded(rows).await
    }

    /// Returns true if the storage table has any row.
    pub async fn has_facts(&self) -> Result<bool, ClickHouseError> {
        self.has_rows(FACTS).await
    }

    /// Returns true if the content table has any row.
    pub async fn has_content(&self) -> Result<bool, ClickHouseError> {
        self.has_rows(CONTENT).await
    }

    async fn has_rows(&self, table: &str) -> Result<bool, ClickHouseError> {
        let row = self
            .query(&format!("SELECT 1 FROM {table} LIMIT 1"))
            .fetch_optional::<u8>();
        Ok(self.bounded(row).await?.is_some())
    }
}
