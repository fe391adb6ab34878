//! Statements of a rebuild from the source: read the live rows of the tables, and delete
//! rows.

use clickhouse::Row;
use serde::Deserialize;
use uuid::Uuid;

use super::{CONTENT, ContentRow, FACTS, FactRow, Store, TOPICS, TopicRow};
use crate::connections::clickhouse::ClickHouseError;

/// Maximum number of contents that one statement deletes.
const MAX_DELETES: usize = 100_000;

/// Key of a live row, and the position of its record in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct PlaceRow {
    pub event_id: i64,
    pub version: u128,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub record_ms: i64,
}

/// Key and version of a live content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct ContentPlace {
    #[serde(with = "clickhouse::serde::uuid")]
    pub id: Uuid,
    pub version: u64,
}

/// A range of event times, in microseconds since the epoch. `None` means unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    pub from_us: Option<i64>,
    /// End of the range (exclusive).
    pub to_us: Option<i64>,
}

impl Times {
    fn condition(self) -> String {
        let mut condition = String::new();
        if let Some(from) = self.from_us {
            condition.push_str(&format!(" AND toUnixTimestamp64Micro(event_ts) >= {from}"));
        }
        if let Some(to) = self.to_us {
            condition.push_str(&format!(" AND toUnixTimestamp64Micro(event_ts) < {to}"));
        }
        condition
    }
}

impl Store {
    /// Returns the number of live events.
    pub async fn count_live(&self, times: Times) -> Result<u64, ClickHouseError> {
        let condition = times.condition();
        let sql = format!("SELECT count() FROM {FACTS} FINAL WHERE _deleted = 0{condition}");
        self.bounded(self.query(&sql).fetch_one::<u64>()).await
    }

    /// Returns the live events after an id, sorted by id.
    pub async fn live_after(
        &self,
        after: Option<i64>,
        times: Times,
        limit: u64,
    ) -> Result<Vec<PlaceRow>, ClickHouseError> {
        let condition = times.condition();
        let after = after.map_or(String::new(), |after| format!(" AND event_id > {after}"));
        let sql = format!(
            "SELECT event_id, _version AS version, _partition AS partition, _offset AS offset, \
             toUnixTimestamp64Milli(_record_ts) AS record_ms FROM {FACTS} FINAL \
             WHERE _deleted = 0{after}{condition} ORDER BY event_id LIMIT {limit}"
        );
        self.bounded(self.query(&sql).fetch_all::<PlaceRow>()).await
    }

    /// Returns the live contents after an id, sorted by id. The order of UUIDs in ClickHouse
    /// differs from the order of their texts.
    pub async fn live_content_after(
        &self,
        after: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<ContentPlace>, ClickHouseError> {
        let after = after.map_or(String::new(), |after| {
            format!(" AND {CONTENT}.id > toUUID('{after}')")
        });
        let sql = format!(
            "SELECT id, _version AS version FROM {CONTENT} FINAL \
             WHERE _deleted = 0{after} ORDER BY id LIMIT {limit}"
        );
        self.bounded(self.query(&sql).fetch_all::<ContentPlace>())
            .await
    }

    /// Inserts rows of events.
    pub async fn insert_facts(&self, rows: &[FactRow<'_>]) -> Result<(), ClickHouseError> {
        let mut insert = self.insert::<FactRow<'static>>(FACTS).await?;
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    }

    /// Inserts rows of content.
    pub async fn insert_content(&self, rows: &[ContentRow<'_>]) -> Result<(), ClickHouseError> {
        let mut insert = self.insert::<ContentRow<'static>>(CONTENT).await?;
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    }

    /// Deletes contents whose row is older than this version, with this version. The number
    /// per call is limited. Returns true if there are more.
    pub async fn delete_content_before(&self, version: u64) -> Result<bool, ClickHouseError> {
        let older = format!("FROM {CONTENT} FINAL WHERE _deleted = 0 AND _version < {version}");
        let delete = format!(
            "INSERT INTO {CONTENT} (id, title, processed_at, _version, _deleted) \
             SELECT id, '', now64(3, 'UTC'), {version}, 1 {older} ORDER BY id LIMIT {MAX_DELETES}"
        );
        self.bounded(self.query(&delete).execute()).await?;
        let more = self.query(&format!("SELECT 1 {older} LIMIT 1"));
        let more = self.bounded(more.fetch_optional::<u8>()).await?;
        Ok(more.is_some())
    }

    /// Inserts rows of `fanout_topics`, either all of them or none.
    pub async fn record_lives(&self, rows: &[TopicRow]) -> Result<(), ClickHouseError> {
        let mut insert = self.insert::<TopicRow>(TOPICS).await?;
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    }

    /// Returns the highest generations of the events and the content topic in the stored
    /// rows.
    pub async fn greatest_generations(&self) -> Result<(u16, u16), ClickHouseError> {
        let facts = format!(
            "SELECT toUInt16(bitShiftRight(max(_version), 112)), \
             toUInt16(bitShiftRight(max(_content_offset), 48)) FROM {FACTS}"
        );
        let facts = self.query(&facts).fetch_one::<(u16, u16)>();
        let (facts, enriched) = self.bounded(facts).await?;
        let content = format!("SELECT toUInt16(bitShiftRight(max(_version), 48)) FROM {CONTENT}");
        let content = self.query(&content).fetch_one::<u16>();
        Ok((facts, enriched.max(self.bounded(content).await?)))
    }

    /// Renames a table.
    pub async fn rename(&self, table: &str, to: &str) -> Result<(), ClickHouseError> {
        let sql = format!("RENAME TABLE {table} TO {to}");
        self.bounded(self.query(&sql).execute()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbounded_range_has_no_condition() {
        assert_eq!(Times::default().condition(), "");
        let times = Times {
            from_us: Some(-5),
            to_us: Some(7),
        };
        assert_eq!(
            times.condition(),
            " AND toUnixTimestamp64Micro(event_ts) >= -5 AND toUnixTimestamp64Micro(event_ts) < 7"
        );
    }
}
