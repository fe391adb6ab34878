//! Rows of the source read anew by Debezium: an incremental snapshot, asked for
//! by a signal and followed by its notifications. Its rows come through the
//! log, behind and between live changes, to every sink.

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

/// The table of the events as Debezium names it.
const EVENTS: &str = "public.engagement_events";
/// The table of the contents.
const CONTENT: &str = "public.content";

/// A notification of an incremental snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// One chunk of this table is read: its last id, and the greatest there is.
    Progress {
        table: String,
        last: i64,
        most: i64,
    },
    /// This table is read.
    Table {
        table: String,
        rows: u64,
        status: String,
    },
    Completed,
    Aborted,
}

/// The rows of these times that the source has now.
pub(super) async fn count(connections: &Connections, times: Times) -> Result<u64, BackfillError> {
    let client = connections.postgres.connect().await?;
    let sql = format!("SELECT count(*) FROM {EVENTS} WHERE {}", condition(times));
    let count: i64 = client.query_one(&sql, &[]).await?.try_get(0)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The events of these times, in the source's own words.
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

/// What the signal says.
fn signal(times: Times, with_content: bool) -> Json {
    let tables: &[&str] = if with_content {
        // First, so that events find their content.
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

/// A snapshot under way.
pub(super) struct Snapshot<'a> {
    pub connections: &'a Connections,
    pub times: Times,
    /// Read the contents, too.
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

    /// Says which signal this will be, and from where its notifications are.
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

    /// Sends the signal, once however often this is called, and waits until all
    /// rows are in the log. Returns how many there were.
    pub(super) async fn follow(&self, id: &str, from: i64) -> Result<u64, BackfillError> {
        let client = self.connections.postgres.connect().await?;
        self.send(&client, id).await?;
        crash::point("backfill", "signal_sent");
        self.steps.doing("waiting for the snapshot to begin");
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
            let Some(told) = seen.and_then(|seen| read(seen.value.as_deref()?, id)) else {
                continue;
            };
            match told {
                Told::Completed => return Ok(rows),
                Told::Aborted => return Err(BackfillError::SnapshotAborted),
                Told::Table { table, status, .. }
                    if !matches!(status.as_str(), "SUCCEEDED" | "EMPTY") =>
                {
                    return Err(BackfillError::SnapshotFailed { table, status });
                }
                Told::Table {
                    table, rows: read, ..
                } => {
                    if table == EVENTS {
                        rows = read;
                        self.steps.advanced(read, Some(read), Unit::Rows);
                        return Ok(rows);
                    }
                }
                Told::Progress { table, last, most } => {
                    if table == EVENTS {
                        let done = part(self.rows, last, most);
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

/// So many of the rows, by how far their ids are. Ids are handed out in order.
fn part(rows: u64, last: i64, most: i64) -> u64 {
    let (last, most) = (
        u128::try_from(last).unwrap_or(0),
        u128::try_from(most).unwrap_or(0),
    );
    if most == 0 || last >= most {
        return rows;
    }
    u64::try_from(u128::from(rows) * last / most).unwrap_or(rows)
}

/// Reads a notification, where it is of this signal's snapshot.
fn read(value: &[u8], id: &str) -> Option<Told> {
    let value: Json = serde_json::from_slice(value).ok()?;
    if value["id"] != id || value["aggregate_type"] != "Incremental Snapshot" {
        return None;
    }
    let data = &value["additional_data"];
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| data[name].as_str().and_then(|text| text.parse().ok());
    match value["type"].as_str()? {
        "IN_PROGRESS" => Some(Told::Progress {
            table: text("current_collection_in_progress"),
            last: number("last_processed_key").unwrap_or(0),
            most: number("maximum_key").unwrap_or(0),
        }),
        "TABLE_SCAN_COMPLETED" => Some(Told::Table {
            table: text("scanned_collection"),
            rows: number("total_rows_scanned").map_or(0, i64::unsigned_abs),
            status: text("status"),
        }),
        "COMPLETED" => Some(Told::Completed),
        "ABORTED" => Some(Told::Aborted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_half_open_and_an_open_end_is_left_out() {
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
    fn notifications_are_read_as_debezium_writes_them() {
        let progress = br#"{"id":"s","type":"IN_PROGRESS","aggregate_type":"Incremental Snapshot","additional_data":{"current_collection_in_progress":"public.engagement_events","connector_name":"cdc","maximum_key":"300","data_collections":"public.engagement_events","last_processed_key":"100"},"timestamp":1795555058967}"#;
        let table = br#"{"id":"s","type":"TABLE_SCAN_COMPLETED","aggregate_type":"Incremental Snapshot","additional_data":{"scanned_collection":"public.content","connector_name":"cdc","total_rows_scanned":"5","status":"SUCCEEDED"},"timestamp":1}"#;
        let told = read(progress, "s");
        assert_eq!(
            told,
            Some(Told::Progress {
                table: EVENTS.to_owned(),
                last: 100,
                most: 300
            })
        );
        assert_eq!(
            read(table, "s"),
            Some(Told::Table {
                table: CONTENT.to_owned(),
                rows: 5,
                status: "SUCCEEDED".to_owned()
            })
        );
        assert_eq!(read(progress, "another"), None);
        assert_eq!(read(b"no document", "s"), None);
    }

    #[test]
    fn the_part_that_is_read_never_exceeds_the_whole() {
        assert_eq!(part(900, 100, 300), 300);
        assert_eq!(part(900, 300, 300), 900);
        assert_eq!(part(900, 5, 0), 900);
        assert_eq!(part(0, 1, 3), 0);
        assert_eq!(part(u64::MAX, i64::MAX - 1, i64::MAX), u64::MAX - 3);
    }
}
