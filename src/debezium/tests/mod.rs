//! Tests of decoding with every kind of record.

mod captured;
mod cases;
mod columns;
mod properties;
mod values;

use serde_json::{Value, json};

use super::*;

const CONTENT_ID: &str = "11111111-1111-4111-8111-111111111111";
/// Position of [`insert`] in the Postgres log.
const LSN: i64 = 27_051_296;
/// 2026-11-23T10:00:00.123456Z
const EVENT_TS: i64 = 1_795_428_000_123_456;

fn source_table(table: &str) -> SourceTable {
    SourceTable {
        prefix: "cdc".to_owned(),
        schema: "public".to_owned(),
        table: table.to_owned(),
    }
}

fn facts() -> FactDecoder {
    Decoder::new(source_table("engagement_events"))
}

fn contents() -> ContentDecoder {
    Decoder::new(source_table("content"))
}

fn record<'a>(key: Option<&'a str>, value: Option<&'a str>) -> Record<'a> {
    Record {
        topic: "cdc.public.engagement_events",
        partition: 0,
        offset: 7,
        timestamp_ms: 1_795_428_000_200,
        key: key.map(str::as_bytes),
        value: value.map(str::as_bytes),
    }
}

/// Returns an insert of the event 1 as Debezium writes it.
fn insert() -> Value {
    json!({
        "before": null,
        "after": {
            "id": 1,
            "content_id": CONTENT_ID,
            "user_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
            "event_type": "play",
            "event_ts": "2026-11-23T10:00:00.123456Z",
            "duration_ms": 65000,
            "device": "ios",
            "raw_payload": "{\"app\": \"1.2.3\"}"
        },
        "source": {
            "version": "3.6.3.Final", "connector": "postgresql", "name": "cdc",
            "ts_ms": 1_795_428_000_123_i64, "snapshot": "false", "db": "app",
            "sequence": "[null,\"27051296\"]", "schema": "public",
            "table": "engagement_events", "txId": 751, "lsn": LSN, "xmin": null
        },
        "transaction": null,
        "op": "c",
        "ts_ms": 1_795_428_000_150_i64
    })
}

/// Returns the insert with a changed column in `after`.
fn with(column: &str, value: Value) -> Value {
    let mut record = insert();
    record["after"][column] = value;
    record
}

/// Returns the text of the insert with a part replaced, for cases that [`Value`] cannot
/// express.
fn replaced(from: &str, to: &str) -> String {
    let text = insert().to_string();
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1)
}

fn decode(value: &str) -> Result<FactChange<'_>, Reject> {
    facts().decode(&record(Some("{\"id\":1}"), Some(value)))
}

#[track_caller]
fn row(value: &str) -> Engagement<'_> {
    match decode(value) {
        Ok(Change::Upsert { row, .. }) => row,
        other => panic!("{value}: {other:?}"),
    }
}

#[track_caller]
fn reject(value: &str) -> Reject {
    match decode(value) {
        Err(reject) => reject,
        other => panic!("{value}: {other:?}"),
    }
}

#[track_caller]
fn assert_rejected(value: &Value, code: RejectCode) {
    assert_eq!(reject(&value.to_string()).code, code, "{value}");
}
