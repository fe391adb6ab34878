//! Statements for re-enrichment: find the stored rows whose content has changed, and write
//! those rows again.

use std::fmt::Write as _;

use clickhouse::Row;
use serde::Deserialize;
use uuid::Uuid;

use super::client::{FACTS, Store};
use crate::connections::clickhouse::ClickHouseError;

/// Current values for the rows of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrichment {
    pub content_id: Uuid,
    pub content_type: Option<String>,
    pub length_seconds: Option<i32>,
    /// The low half of the new version of the rows.
    pub content_offset: u64,
}

/// A stored row whose content has changed since the row was enriched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Row, Deserialize)]
pub struct StaleRow {
    pub event_id: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub content_id: Uuid,
}

/// A lookup of stale rows.
#[derive(Debug, Clone, Copy)]
pub struct StaleRows<'a> {
    /// Partitions of the events topic.
    pub partitions: &'a [i32],
    /// Each content with the `_content_offset` that its rows should have.
    pub contents: &'a [(Uuid, u64)],
    /// Finds only events after this id.
    pub after: Option<i64>,
    /// Finds only events up to this id.
    pub until: Option<i64>,
    /// Maximum number of rows, lowest ids first. More rows of the last id are also found.
    pub limit: usize,
}

impl StaleRows<'_> {
    /// Returns the statement of [`Store::stale_rows`]. Every value in it is a number or a
    /// UUID.
    #[must_use]
    pub fn statement(self) -> String {
        let ids: Vec<String> = self
            .contents
            .iter()
            .map(|(id, _)| format!("'{id}'"))
            .collect();
        let rows: Vec<String> = self
            .contents
            .iter()
            .map(|(id, offset)| format!("('{id}',{offset})"))
            .collect();
        let mut range = String::new();
        // Writing to a string cannot fail.
        if let Some(after) = self.after {
            let _ = write!(range, " AND event_id > {after}");
        }
        if let Some(until) = self.until {
            let _ = write!(range, " AND event_id <= {until}");
        }
        // Several versions of a row may be in parts that are not merged yet. Only the latest
        // version counts.
        format!(
            "SELECT s.event_id AS event_id, assumeNotNull(s.content) AS content_id FROM \
             (SELECT event_id, content_id AS content, max(_version) AS version FROM {FACTS} \
             WHERE content_id IN ({ids}) AND _partition IN ({partitions}){range} \
             GROUP BY event_id, content_id) AS s \
             INNER JOIN (SELECT tupleElement(row, 1) AS content, tupleElement(row, 2) AS offset FROM \
             (SELECT arrayJoin(CAST({rows}, 'Array(Tuple(UUID, UInt64))')) AS row)) AS c \
             ON s.content = c.content \
             WHERE bitAnd(s.version, toUInt128({low})) < c.offset \
             ORDER BY event_id LIMIT {limit} WITH TIES",
            ids = ids.join(", "),
            partitions = list(self.partitions),
            rows = quoted(&format!("[{}]", rows.join(","))),
            low = u64::MAX,
            limit = self.limit,
        )
    }
}

impl Store {
    /// Returns the stale rows, sorted by event id. The index on `content_id` skips granules
    /// without these contents, and only four narrow columns of the others are read. The
    /// result may include rows that were deleted or moved to other content, until ClickHouse
    /// has merged their old versions.
    pub async fn stale_rows(
        &self,
        lookup: StaleRows<'_>,
    ) -> Result<Vec<StaleRow>, ClickHouseError> {
        if lookup.contents.is_empty() || lookup.partitions.is_empty() {
            return Ok(Vec::new());
        }
        let query = self.long_query(&lookup.statement());
        self.bounded(query.fetch_all::<StaleRow>()).await
    }

    /// Re-enriches those of these events whose content has changed. Does not change rows
    /// that are current, deleted, or of other contents.
    pub async fn reenrich(
        &self,
        events: &[i64],
        enrichments: &[Enrichment],
    ) -> Result<(), ClickHouseError> {
        if events.is_empty() || enrichments.is_empty() {
            return Ok(());
        }
        let query = self.long_query(&reenrich_statement(events, enrichments));
        self.bounded(query.execute()).await
    }

    /// Returns the lowest and the highest id of the stored events.
    pub async fn event_bounds(&self) -> Result<Option<(i64, i64)>, ClickHouseError> {
        let end = |order: &str| {
            let sql = format!("SELECT event_id FROM {FACTS} ORDER BY event_id {order} LIMIT 1");
            self.query(&sql).fetch_optional::<i64>()
        };
        let lowest = self.bounded(end("ASC")).await?;
        let highest = self.bounded(end("DESC")).await?;
        Ok(lowest.zip(highest))
    }

    /// Returns a query for a statement that contains its data, and may be long.
    fn long_query(&self, sql: &str) -> clickhouse::query::Query {
        self.raw_query(sql)
            .with_setting("max_query_size", "67108864")
    }
}

/// Returns the statement of [`Store::reenrich`]. Every value in it is a number, a UUID or a
/// text in hexadecimal, because plain text would have to be escaped twice.
fn reenrich_statement(events: &[i64], enrichments: &[Enrichment]) -> String {
    let rows: Vec<String> = enrichments
        .iter()
        .map(|enrichment| {
            let Enrichment {
                content_id,
                content_type,
                length_seconds,
                content_offset,
            } = enrichment;
            let kind = content_type.as_deref().map_or("NULL".to_owned(), hex);
            let length = length_seconds.map_or("NULL".to_owned(), |seconds| seconds.to_string());
            format!("('{content_id}',{kind},{length},{content_offset})")
        })
        .collect();
    let percent = percent("s.duration_ms", "c.length");
    // The values are cast from text. As literals, this many values would take seconds to
    // parse.
    format!(
        "INSERT INTO {FACTS} \
         SELECT s.event_id, s.content_id, s.user_id, s.event_type, s.event_ts, s.duration_ms, \
         s.engagement_seconds, \
         {percent} AS engagement_pct, \
         s.device, s.raw_payload, c.kind, c.length, now64(3, 'UTC'), \
         bitOr(bitShiftLeft(bitShiftRight(s._version, 64), 64), toUInt128(c.offset)), \
         s._deleted, s._partition, s._offset, c.offset, s._record_ts \
         FROM (SELECT * FROM {FACTS} FINAL WHERE event_id IN \
         (SELECT arrayJoin(CAST({events}, 'Array(Int64)')))) AS s \
         INNER JOIN (SELECT tupleElement(row, 1) AS content, unhex(tupleElement(row, 2)) AS kind, \
         tupleElement(row, 3) AS length, tupleElement(row, 4) AS offset FROM \
         (SELECT arrayJoin(CAST({rows}, \
         'Array(Tuple(UUID, Nullable(String), Nullable(Int32), UInt64))')) AS row)) AS c \
         ON s.content_id = c.content \
         WHERE s._deleted = 0 AND s._content_offset < c.offset",
        events = quoted(&format!("[{}]", list(events))),
        rows = quoted(&format!("[{}]", rows.join(","))),
    )
}

/// Returns the SQL expression for `engagement_pct` of two columns. Like
/// [`crate::engagement::enrichment::engagement_pct`], it uses integers and rounds halves
/// away from zero.
#[must_use]
pub fn percent(duration_ms: &str, length_seconds: &str) -> String {
    let divisor = format!("toInt64(if({length_seconds} > 0, {length_seconds}, 1))");
    format!(
        "if({length_seconds} > 0, toDecimal64(toInt64(sign({duration_ms})) * \
         intDiv(abs(toInt64({duration_ms})) + 5 * {divisor}, 10 * {divisor}), 0) \
         * toDecimal64('0.01', 2), NULL)"
    )
}

fn list(numbers: &[impl ToString]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Returns a string literal for text without backslashes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns a string literal for `unhex`.
fn hex(text: &str) -> String {
    let mut literal = String::with_capacity(2 * text.len() + 2);
    literal.push('\'');
    for byte in text.bytes() {
        // Writing to a string cannot fail.
        let _ = write!(literal, "{byte:02x}");
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cannot_be_escaped() {
        assert_eq!(hex(r"a'\"), "'61275c'");
        assert_eq!(quoted("['61',1]"), "'[''61'',1]'");
    }

    #[test]
    fn a_lookup_is_limited_to_its_contents_partitions_and_ids() {
        let contents = [(Uuid::from_u128(7), 9)];
        let mut lookup = StaleRows {
            partitions: &[0, 2],
            contents: &contents,
            after: None,
            until: None,
            limit: 5,
        };
        let unbounded = lookup.statement();
        assert!(
            unbounded.contains("_partition IN (0,2) GROUP BY"),
            "{unbounded}"
        );
        assert!(unbounded.ends_with("LIMIT 5 WITH TIES"), "{unbounded}");
        lookup.after = Some(-3);
        lookup.until = Some(4);
        let bounded = lookup.statement();
        assert!(
            bounded.contains("AND event_id > -3 AND event_id <= 4"),
            "{bounded}"
        );
    }
}
