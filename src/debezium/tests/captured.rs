//! Records that were captured from a real connector, kept in `tests/data`.

use serde::Deserialize;

use super::*;
use crate::engagement::idempotency;

const BARE: &str = include_str!("../../../tests/data/debezium-3.6.3.jsonl");
const WITH_SCHEMAS: &str = include_str!("../../../tests/data/debezium-3.6.3-schemas.jsonl");

#[derive(Deserialize)]
struct Captured {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
}

impl Captured {
    fn record(&self) -> Record<'_> {
        Record {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp,
            key: self.key.as_deref().map(str::as_bytes),
            value: self.value.as_deref().map(str::as_bytes),
        }
    }
}

fn lines(file: &'static str) -> impl Iterator<Item = Captured> {
    file.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// Returns one line for a record: the change, the row, and the values that distinguish it from
/// its neighbours.
fn summary(captured: &Captured, prefix: &str) -> Option<String> {
    let table = |name| SourceTable {
        prefix: prefix.to_owned(),
        ..source_table(name)
    };
    let record = captured.record();
    let change = match captured.topic.strip_prefix(prefix)? {
        ".public.engagement_events" => {
            let decoder = FactDecoder::new(table("engagement_events"));
            assert_eq!(decoder.source().topic(), captured.topic);
            show(decoder.decode(&record), |row| {
                String::from_utf8(idempotency::body(row)).unwrap()
            })
        }
        ".public.content" => {
            let decoder = ContentDecoder::new(table("content"));
            show(decoder.decode(&record), |row| format!("{row:?}"))
        }
        _ => return None,
    };
    Some(change)
}

fn show<R, I: std::fmt::Display>(
    change: Result<Change<R, I>, Reject>,
    row: impl Fn(&R) -> String,
) -> String {
    match change {
        Ok(Change::Upsert {
            origin,
            row: found,
            extra_fields,
            ..
        }) => {
            let extra = if extra_fields { " (extra fields)" } else { "" };
            format!("{}{extra} {}", origin.code(), row(&found))
        }
        Ok(Change::Delete { id }) => format!("delete {id}"),
        Ok(Change::Truncate { .. }) => "truncate".to_owned(),
        Ok(Change::Ignored(ignored)) => format!("ignored {}", ignored.code()),
        Err(reject) => format!("rejected {}: {reject}", reject.code),
    }
}

fn summaries(file: &'static str, prefix: &str) -> String {
    let lines = lines(file).filter_map(|captured| {
        let summary = summary(&captured, prefix)?;
        let summary = match summary.char_indices().nth(600) {
            Some((end, _)) => format!("{}… {} bytes", &summary[..end], summary.len()),
            None => summary,
        };
        Some(format!(
            "{}@{} {summary}\n",
            captured.partition, captured.offset
        ))
    });
    lines.collect()
}

#[test]
fn every_captured_record_matches_the_change_in_the_database() {
    insta::assert_snapshot!("bare", summaries(BARE, "cdc"));
}

#[test]
fn captured_records_with_schemas_match_the_changes_too() {
    insta::assert_snapshot!("with_schemas", summaries(WITH_SCHEMAS, "cdcs"));
}

#[test]
fn messages_and_heartbeats_of_other_topics_are_ignored() {
    let codes: std::collections::BTreeSet<_> = lines(BARE)
        .filter(|captured| {
            captured.topic.starts_with("__debezium-heartbeat") || captured.topic == "cdc.message"
        })
        .map(|captured| show(facts().decode(&captured.record()), |_| String::new()))
        .collect();
    let expected = ["ignored heartbeat".to_owned(), "ignored message".to_owned()];
    assert_eq!(codes, expected.into());
}

#[test]
fn records_of_other_topics_are_never_decoded_as_events() {
    let others = lines(BARE).filter(|captured| captured.topic != "cdc.public.engagement_events");
    for captured in others {
        let change = facts().decode(&captured.record());
        assert!(
            matches!(change, Err(_) | Ok(Change::Ignored(_))),
            "{} {change:?}",
            captured.topic
        );
    }
}
