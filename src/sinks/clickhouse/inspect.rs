//! The contents of ClickHouse for an operator: the latest rows of the view, the
//! row of one event, and titles.

use std::{collections::HashMap, time::Duration};

use serde_json::Value as Json;
use uuid::Uuid;

use super::query::{Query, VIEW};
use crate::{
    audit::row::TextRow,
    config::Settings,
    connections::Connections,
    sinks::inspect::{Arrival, Inspect, InspectError, Item, MarkedEvent, Title},
};

/// Reads the view.
#[derive(Debug)]
pub(crate) struct RowInspector {
    query: Query,
    database: String,
    /// `processed_at` of the latest row returned.
    latest: Option<String>,
}

impl Inspect for RowInspector {
    fn equivalent(settings: &Settings, count: usize) -> String {
        let sql = select_latest(&settings.clickhouse.database, count, None);
        format!("curl -s \"$FANOUT_CLICKHOUSE_URL\" --data-binary '{sql} FORMAT JSONEachRow'")
    }

    /// Sends nothing. The client has a fixed time limit for each query.
    async fn connect(
        connections: &Connections,
        _timeout: Option<Duration>,
    ) -> Result<Self, InspectError> {
        Ok(Self {
            query: connections.clickhouse.query()?,
            database: connections.settings().clickhouse.database.clone(),
            latest: None,
        })
    }

    async fn latest(&mut self, count: usize) -> Result<Vec<Item>, InspectError> {
        let sql = select_latest(&self.database, count, self.latest.as_deref());
        let mut lines = self.query.json_lines(&sql).await?;
        if self.latest.is_none() {
            lines.reverse();
        }
        let mut items = Vec::new();
        for line in lines {
            let document: Json = serde_json::from_str(&line).unwrap_or_default();
            let processed_at = document["processed_at"].as_str().unwrap_or_default();
            // The time becomes part of the next statement, so it must not
            // contain anything but digits and signs.
            let is_time = |byte: u8| byte.is_ascii_digit() || b"-:. ".contains(&byte);
            if !processed_at.is_empty() && processed_at.bytes().all(is_time) {
                self.latest = Some(processed_at.to_owned());
            }
            items.push(Item {
                head: processed_at.to_owned(),
                body: line,
                document,
            });
        }
        Ok(items)
    }

    async fn find(&self, event: &MarkedEvent) -> Result<Arrival, InspectError> {
        let rows = self.query.rows_of(&[event.event_id]).await?;
        let Some(row) = rows.first() else {
            return Ok(Arrival::NotYet("no row".to_owned()));
        };
        let differences = differences(row, event);
        Ok(if differences.is_empty() {
            Arrival::Arrived("the row with its derived fields".to_owned())
        } else {
            Arrival::NotYet(differences.join(", "))
        })
    }

    async fn titles(
        connections: &Connections,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Title>, InspectError> {
        Ok(connections.clickhouse.query()?.titles(ids).await?)
    }
}

/// Returns a query for the latest rows, newest first, or for the rows processed
/// after a time, oldest first. `after` must not contain a quote.
fn select_latest(database: &str, count: usize, after: Option<&str>) -> String {
    let Some(after) = after else {
        return format!(
            "SELECT * FROM {database}.{VIEW} \
             ORDER BY processed_at DESC, event_id DESC LIMIT {count}"
        );
    };
    // All rows of the last time are included, so that the next query, which
    // begins after that time, does not miss any.
    format!(
        "SELECT * FROM {database}.{VIEW} WHERE processed_at > '{after}' \
         ORDER BY processed_at LIMIT {count} WITH TIES"
    )
}

/// Describes each column of the event's row that is wrong.
fn differences(row: &TextRow, event: &MarkedEvent) -> Vec<String> {
    let columns = [
        ("engagement_seconds", event.engagement_seconds),
        ("engagement_pct", event.engagement_pct),
        ("content_type", event.content_type),
        ("length_seconds", event.length_seconds),
        ("device", event.device),
    ];
    let columns = columns.map(|(name, expected)| (name, row.cell(name), expected));
    let wrong = columns
        .into_iter()
        .filter(|(_, found, expected)| *found != Some(*expected));
    wrong
        .map(|(name, found, expected)| {
            let found = found.unwrap_or("null");
            format!("{name} is {found} and should be {expected}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_column_is_named_with_both_values() {
        let event = MarkedEvent {
            event_id: 1,
            content_id: Uuid::nil(),
            idempotency_key: Uuid::nil(),
            score: 1,
            engagement_seconds: "12.345",
            engagement_pct: "0.14",
            content_type: "video",
            length_seconds: "90",
            device: "fanout-smoke",
        };
        let text = |value: &str| Some(value.to_owned());
        let row = TextRow {
            id: 1,
            // In the order of `COLUMNS`.
            cells: [
                None,
                None,
                None,
                None,
                None,
                text("12.345"),
                text("0.13"),
                text("fanout-smoke"),
                None,
                None,
                text("90"),
            ],
        };
        assert_eq!(
            differences(&row, &event),
            [
                "engagement_pct is 0.13 and should be 0.14",
                "content_type is null and should be video"
            ]
        );
    }
}
