//! Fuzzes the decoders with arbitrary record bytes: every record has exactly
//! one result, all decoders agree on it, and a row does not depend on how it
//! was serialized.
//!
//! An input is a key and a value, separated by a line feed. An input without a
//! line feed is a value without a key. The corpus starts with captured records.

#![no_main]

use std::{fs, path::Path, sync::Arc};

use fanout::{
    config::Score,
    debezium::{
        Change, ContentDecoder, DimensionDecoder, Engagement, FactChange, FactDecoder, Record,
        Reject, RejectCode, SourceTable,
    },
    engagement::idempotency,
    kafka::chunk::Chunk,
    sinks::redis::sink::{BoardChange, BoardDecoder, Decoded},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value as Json, json};

const CAPTURED: [&str; 2] = [
    include_str!("../../tests/data/debezium-3.6.3.jsonl"),
    include_str!("../../tests/data/debezium-3.6.3-schemas.jsonl"),
];

fuzz_target!(init: seed(), |data: &[u8]| check(data));

/// Writes the captured records into the fuzzer's corpus.
fn seed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/decode");
    fs::create_dir_all(&corpus).expect("create the folder");
    for (number, line) in CAPTURED.iter().flat_map(|text| text.lines()).enumerate() {
        let record: Json = serde_json::from_str(line).expect("a record per line");
        let text = |field: &str| record[field].as_str().unwrap_or_default();
        let input = format!("{}\n{}", text("key"), text("value"));
        fs::write(corpus.join(format!("captured-{number:03}")), input).expect("write the input");
    }
}

fn table(table: &str) -> SourceTable {
    SourceTable {
        prefix: "cdc".to_owned(),
        schema: "public".to_owned(),
        table: table.to_owned(),
    }
}

fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
    Record {
        topic: "cdc.public.engagement_events",
        partition: 0,
        offset: 7,
        timestamp_ms: 1_795_428_000_200,
        key,
        value,
    }
}

fn check(data: &[u8]) {
    let (key, value) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (Some(&data[..end]), &data[end + 1..]),
        None => (None, data),
    };
    let facts = FactDecoder::new(table("engagement_events"));
    let contents = ContentDecoder::new(table("content"));
    let change = facts.decode(&record(key, Some(value)));
    assert_safe_detail(change.as_ref().err());
    assert_safe_detail(contents.decode(&record(key, Some(value))).err().as_ref());
    assert_same_for_boards(key, value, &change);
    assert_same_for_enrichment(&contents, &record(key, Some(value)));
    assert_same_with_schema(&facts, key, value, &change);
    match &change {
        Ok(Change::Upsert { row, .. }) => {
            assert_same_reserialized(&facts, row);
            assert_requires_its_key(&facts, row.id, value);
        }
        Ok(Change::Delete { id }) => {
            let plain_key = json!({ "id": id }).to_string();
            let decoded = facts.decode(&record(Some(plain_key.as_bytes()), Some(value)));
            assert_eq!(decoded, change);
        }
        Ok(Change::Truncate { .. } | Change::Ignored(_)) | Err(_) => {}
    }
}

/// Asserts that a detail is short and has no control characters.
fn assert_safe_detail(reject: Option<&Reject>) {
    if let Some(Reject { code, detail }) = reject {
        assert!(detail.chars().count() < 300, "{code}: {detail}");
        assert!(!detail.contains(char::is_control), "{code}: {detail:?}");
    }
}

/// Asserts that a board decodes one record into one change. A board reads fewer
/// columns than the other decoders, so it accepts every record that they
/// accept, with the same result.
fn assert_same_for_boards(
    key: Option<&[u8]>,
    value: &[u8],
    change: &Result<FactChange<'_>, Reject>,
) {
    let mut chunk = Chunk::new(Arc::from("cdc.public.engagement_events"), 0);
    chunk.push(7, 1_795_428_000_200, key, Some(value));
    let decoded = |score| {
        let decoder = BoardDecoder::new(table("engagement_events"), score);
        let mut decoded = decoder.decode(&chunk);
        assert_eq!(decoded.len(), 1);
        decoded.remove(0)
    };
    let (events, seconds) = (decoded(Score::Events), decoded(Score::Seconds));
    assert_same_change(&seconds, change, true);
    assert_same_change(&events, change, false);
    if let BoardChange::Rejected(rejected) = &events.change {
        let BoardChange::Rejected(other) = &seconds.change else {
            panic!("rejected for events: {rejected:?}; decoded for seconds: {seconds:?}");
        };
        assert_eq!(rejected.code, other.code);
    }
}

fn assert_same_change(
    decoded: &Decoded,
    change: &Result<FactChange<'_>, Reject>,
    has_duration: bool,
) {
    match (&decoded.change, change) {
        (
            BoardChange::Event {
                id,
                event: Some(event),
            },
            Ok(Change::Upsert { row, .. }),
        ) => {
            assert_eq!((*id, event.content_id), (row.id, row.content_id));
            assert_eq!(event.event_ts, row.event_ts);
            let duration_ms = row.duration_ms.filter(|_| has_duration);
            assert_eq!(event.duration_ms, duration_ms);
        }
        (BoardChange::Event { id, event: None }, Ok(Change::Delete { id: deleted })) => {
            assert_eq!(id, deleted);
        }
        (BoardChange::Truncate, Ok(Change::Truncate { .. })) => {}
        (BoardChange::Ignored(reason), Ok(Change::Ignored(other))) => assert_eq!(reason, other),
        // The other decoders may reject a column that the board does not read,
        // and they may reject it first.
        (BoardChange::Event { event: Some(_), .. } | BoardChange::Rejected(_), Err(_)) => {}
        // The board does not check skipped strings for lone surrogates.
        (_, Err(reject)) if reject.code == RejectCode::NotJson => {}
        (found, expected) => panic!("decoded {found:?}, expected {expected:?}"),
    }
}

/// Asserts that enrichment accepts every record that the content mirror
/// accepts, with the same result.
fn assert_same_for_enrichment(contents: &ContentDecoder, record: &Record<'_>) {
    let dimension = DimensionDecoder::new(table("content")).decode(record);
    match (contents.decode(record), dimension) {
        (Ok(Change::Upsert { row, .. }), Ok(Change::Upsert { row: found, .. })) => {
            assert_eq!(row.id, found.id);
            assert_eq!(row.content_type, found.content_type);
            assert_eq!(row.length_seconds, found.length_seconds);
        }
        (Ok(Change::Delete { id }), Ok(Change::Delete { id: deleted })) => {
            assert_eq!(id, deleted);
        }
        (Ok(Change::Truncate { .. }), Ok(Change::Truncate { .. })) => {}
        (Ok(Change::Ignored(reason)), Ok(Change::Ignored(other))) => assert_eq!(reason, other),
        (Err(_), _) => {}
        (found, expected) => panic!("decoded {found:?}, expected {expected:?}"),
    }
}

/// Asserts that a record decodes the same with an empty schema around it.
fn assert_same_with_schema(
    facts: &FactDecoder,
    key: Option<&[u8]>,
    value: &[u8],
    change: &Result<FactChange<'_>, Reject>,
) {
    let Ok(Json::Object(envelope)) = serde_json::from_slice::<Json>(value) else {
        return;
    };
    // A document without `op` may already have a schema.
    let is_bare = envelope.contains_key("op");
    if !is_bare
        || ["schema", "payload"]
            .iter()
            .any(|name| envelope.contains_key(*name))
    {
        return;
    }
    let mut wrapped = br#"{"schema":{},"payload":"#.to_vec();
    wrapped.extend_from_slice(value);
    wrapped.push(b'}');
    let decoded = facts.decode(&record(key, Some(&wrapped)));
    match (change, &decoded) {
        // The detail may contain a position in the text.
        (Err(bare), Err(wrapped)) => assert_eq!(bare.code, wrapped.code),
        _ => assert_eq!(change, &decoded),
    }
}

/// Asserts that a row that is serialized again, with its columns in any order,
/// decodes to the same row with the same body and idempotency key.
fn assert_same_reserialized(facts: &FactDecoder, row: &Engagement<'_>) {
    let body = idempotency::body(row);
    let columns: Map<String, Json> = serde_json::from_slice(&body).expect("a body is JSON");
    let forwards = columns.clone();
    let backwards: Map<String, Json> = columns.into_iter().rev().collect();
    for after in [forwards, backwards] {
        let source = json!({"name": "cdc", "schema": "public", "table": "engagement_events"});
        let value = json!({"op": "c", "source": source, "after": after}).to_string();
        let key = json!({"id": row.id}).to_string();
        let change = facts.decode(&record(Some(key.as_bytes()), Some(value.as_bytes())));
        let Ok(Change::Upsert { row: decoded, .. }) = change else {
            panic!("{value}: {change:?}");
        };
        assert_eq!(&decoded, row);
        let decoded_body = idempotency::body(&decoded);
        assert_eq!(decoded_body, body);
        let name = facts.source().qualified();
        let bodies = [&decoded_body, &body];
        let keys = bodies.map(|body| idempotency::idempotency_key(&name, body));
        assert_eq!(keys[0], keys[1]);
    }
}

/// Asserts that a record with the key of another row, or without a key, is
/// rejected.
fn assert_requires_its_key(facts: &FactDecoder, id: i64, value: &[u8]) {
    let code = |key: Option<&[u8]>| {
        let change = facts.decode(&record(key, Some(value)));
        change.expect_err("a rejected record").code
    };
    let other = json!({"id": id.wrapping_add(1)}).to_string();
    assert_eq!(code(Some(other.as_bytes())), RejectCode::KeyMismatch);
    assert_eq!(code(None), RejectCode::MissingKey);
}
