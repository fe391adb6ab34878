//! An incremental snapshot by Debezium. A signal requests it, and its notifications show the
//! progress. Its rows reach every sink through the log, interleaved with live changes.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::{error::BackfillError, journal::Database};
use crate::{
    connections::{Connections, postgres::Client},
    crash,
    kafka::Stretch,
    progress::{Unit, steps::Steps},
    sinks::clickhouse::Times,
    source::tables::reader_group,
    time::timestamp::Rfc3339,
};

/// Debezium's name of the events table.
const EVENTS: &str = "public.engagement_events";
/// Debezium's name of the content table.
const CONTENT: &str = "public.content";

/// A notification of an incremental snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notification {
    /// A chunk of this table was read: the chunk's last id, and the greatest id of the table.
    Progress {
        table: String,
        last: i64,
        most: i64,
    },
    /// The scan of this table has ended.
    Table {
        table: String,
        rows: u64,
        status: String,
    },
    Completed,
    Aborted,
}

/// Returns the current number of rows in the time range.
pub(super) async fn count(connections: &Connections, times: Times) -> Result<u64, BackfillError> {
    let client = connections.postgres.connect().await?;
    let sql = format!("SELECT count(*) FROM {EVENTS} WHERE {}", condition(times));
    let count: i64 = client.query_one(&sql, &[]).await?.try_get(0)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Returns the SQL condition that selects the events in the time range.
fn condition(times: Times) -> String {
    let bound = |comparison: &str, micros: i64| {
        format!("event_ts {comparison} '{}'::timestamptz", Rfc3339(micros))
    };
    let bounds: Vec<String> = [
        times.from_us.map(|from| bound(">=", from)),
        times.to_us.map(|to| bound("<", to)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if bounds.is_empty() {
        return "true".to_owned();
    }
    bounds.join(" AND ")
}

/// Returns the data of the signal.
fn signal(times: Times, with_content: bool) -> Json {
    let tables: &[&str] = if with_content {
        // The content comes first, so that events find their content.
        &[CONTENT, EVENTS]
    } else {
        &[EVENTS]
    };
    let mut data = json!({ "data-collections": tables, "type": "incremental" });
    if times != Times::default() {
        let filter = condition(times);
        data["additional-conditions"] = json!([{ "data-collection": EVENTS, "filter": filter }]);
    }
    data
}

/// An incremental snapshot.
pub(super) struct Snapshot<'a> {
    pub connections: &'a Connections,
    pub times: Times,
    /// Whether to read the content table, too.
    pub with_content: bool,
    pub rows: u64,
    pub patience: Duration,
    pub steps: &'a Steps<'a>,
}

impl Snapshot<'_> {
    fn notifications(&self) -> String {
        let settings = self.connections.settings();
        format!("{}.notifications", settings.kafka.topic_prefix)
    }

    /// Sets the id of the signal, and the offset from which its notifications follow.
    pub(super) async fn begin(&self, database: &mut Database) -> Result<(), BackfillError> {
        let reader = reader_group(self.connections.settings(), "backfill");
        let log = self.connections.kafka.log(&reader)?;
        let topic = self.notifications();
        let end = match log.partitions(&topic).await? {
            Some(_) => log.ends(&topic).await?.first().copied().unwrap_or(0),
            None => 0,
        };
        database.notifications_from = end;
        database.signal = Some(format!("fanout-{}", Uuid::new_v4().simple()));
        Ok(())
    }

    /// Sends the signal and waits until all rows are in the log. Returns their number. Repeated
    /// calls send the signal only once.
    pub(super) async fn follow(&self, id: &str, from: i64) -> Result<u64, BackfillError> {
        let client = self.connections.postgres.connect().await?;
        self.send(&client, id).await?;
        crash::point("backfill", "signal_sent");
        self.steps.doing("waiting for the snapshot to start");
        let topic = self.notifications();
        let stretch = Stretch {
            partition: 0,
            from,
            until: None,
        };
        let reader = reader_group(self.connections.settings(), "backfill");
        let mut scan = self.connections.kafka.scan(&reader, &topic, &[stretch])?;
        let mut rows = 0;
        loop {
            let next = timeout(self.patience, scan.next()).await;
            let seen = match next {
                Ok(seen) => seen?,
                Err(_) => {
                    return Err(BackfillError::SnapshotSilent {
                        waited: self.patience,
                    });
                }
            };
            let notification = seen.and_then(|seen| parse(seen.value.as_deref()?, id));
            let Some(notification) = notification else {
                continue;
            };
            match notification {
                Notification::Completed => return Ok(rows),
                Notification::Aborted => return Err(BackfillError::SnapshotAborted),
                Notification::Table { table, status, .. }
                    if !matches!(status.as_str(), "SUCCEEDED" | "EMPTY") =>
                {
                    return Err(BackfillError::SnapshotFailed { table, status });
                }
                Notification::Table {
                    table, rows: count, ..
                } => {
                    if table == EVENTS {
                        rows = count;
                        self.steps.advanced(count, Some(count), Unit::Rows);
                        return Ok(rows);
                    }
                }
                Notification::Progress { table, last, most } => {
                    if table == EVENTS {
                        let done = rows_read(self.rows, last, most);
                        self.steps.advanced(done, Some(self.rows), Unit::Rows);
                    } else {
                        self.steps.doing(&format!("reading {table}"));
                    }
                }
            }
        }
    }

    async fn send(&self, client: &Client, id: &str) -> Result<(), BackfillError> {
        let data = signal(self.times, self.with_content).to_string();
        let sql = "INSERT INTO public.debezium_signal (id, type, data)
                   VALUES ($1, 'execute-snapshot', $2) ON CONFLICT (id) DO NOTHING";
        client.execute(sql, &[&id, &data]).await?;
        Ok(())
    }
}

/// Estimates the number of rows that were read from the last and the greatest id, because ids
/// are assigned in order.
fn rows_read(rows: u64, last: i64, most: i64) -> u64 {
    let (last, most) = (
        u128::try_from(last).unwrap_or(0),
        u128::try_from(most).unwrap_or(0),
    );
    if most == 0 || last >= most {
        return rows;
    }
    u64::try_from(u128::from(rows) * last / most).unwrap_or(rows)
}

/// Parses a notification. Returns `None` if it does not belong to this signal's snapshot.
fn parse(value: &[u8], id: &str) -> Option<Notification> {
    let value: Json = serde_json::from_slice(value).ok()?;
    if value["id"] != id || value["aggregate_type"] != "Incremental Snapshot" {
        return None;
    }
    let data = &value["additional_data"];
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| data[name].as_str().and_then(|text| text.parse().ok());
    match value["type"].as_str()? {
        "IN_PROGRESS" => Some(Notification::Progress {
            table: text("current_collection_in_progress"),
            last: number("last_processed_key").unwrap_or(0),
            most: number("maximum_key").unwrap_or(0),
        }),
        "TABLE_SCAN_COMPLETED" => Some(Notification::Table {
            table: text("scanned_collection"),
            rows: number("total_rows_scanned").map_or(0, i64::unsigned_abs),
            status: text("status"),
        }),
        "COMPLETED" => Some(Notification::Completed),
        "ABORTED" => Some(Notification::Aborted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_half_open_and_omits_an_open_end() {
        let times = |from_us, to_us| Times { from_us, to_us };
        assert_eq!(condition(times(None, None)), "true");
        assert_eq!(
            condition(times(Some(0), Some(1_500_000))),
            "event_ts >= '1970-01-01T00:00:00.000000Z'::timestamptz \
             AND event_ts < '1970-01-01T00:00:01.500000Z'::timestamptz"
        );
        let data = signal(times(None, None), true);
        assert_eq!(data["data-collections"], json!([CONTENT, EVENTS]));
        assert_eq!(data.get("additional-conditions"), None);
        let data = signal(times(Some(0), None), false);
        assert_eq!(data["additional-conditions"][0]["data-collection"], EVENTS);
    }

    #[test]
    fn notifications_of_debezium_are_parsed() {
        let progress = br#"{"id":"s","type":"IN_PROGRESS","aggregate_type":"Incremental Snapshot","additional_data":{"current_collection_in_progress":"public.engagement_events","connector_name":"cdc","maximum_key":"300","data_collections":"public.engagement_events","last_processed_key":"100"},"timestamp":1795555058967}"#;
        let table = br#"{"id":"s","type":"TABLE_SCAN_COMPLETED","aggregate_type":"Incremental Snapshot","additional_data":{"scanned_collection":"public.content","connector_name":"cdc","total_rows_scanned":"5","status":"SUCCEEDED"},"timestamp":1}"#;
        let notification = parse(progress, "s");
        assert_eq!(
            notification,
            Some(Notification::Progress {
                table: EVENTS.to_owned(),
                last: 100,
                most: 300
            })
        );
        assert_eq!(
            parse(table, "s"),
            Some(Notification::Table {
                table: CONTENT.to_owned(),
                rows: 5,
                status: "SUCCEEDED".to_owned()
            })
        );
        assert_eq!(parse(progress, "another"), None);
        assert_eq!(parse(b"no document", "s"), None);
    }

    #[test]
    fn the_estimate_never_exceeds_the_total() {
        assert_eq!(rows_read(900, 100, 300), 300);
        assert_eq!(rows_read(900, 300, 300), 900);
        assert_eq!(rows_read(900, 5, 0), 900);
        assert_eq!(rows_read(0, 1, 3), 0);
        assert_eq!(rows_read(u64::MAX, i64::MAX - 1, i64::MAX), u64::MAX - 3);
    }
}
