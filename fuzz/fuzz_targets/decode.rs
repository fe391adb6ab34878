//! Whatever the bytes of a record: each ends as something, none as two things,
//! and what a row is does not hang on how it was written down.
//!
//! An input is a key and a value with a line feed between them; without one it
//! is a value with no key. It begins with the records that were captured.

#![no_main]

use std::{fs, path::Path, sync::Arc};

use fanout::{
    chunk::Chunk,
    config::Score,
    event::{
        Change, ContentDecoder, DimensionDecoder, Engagement, FactChange, FactDecoder, Record,
        Reject, RejectCode, SourceTable, idempotency,
    },
    sinks::board::{BoardChange, BoardDecoder, Decoded},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value as Json, json};

const CAPTURED: [&str; 2] = [
    include_str!("../../tests/data/debezium-3.6.3.jsonl"),
    include_str!("../../tests/data/debezium-3.6.3-schemas.jsonl"),
];

fuzz_target!(init: seed(), |data: &[u8]| check(data));

/// Writes the captured records where the fuzzer looks for its first inputs.
fn seed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/decode");
    fs::create_dir_all(&corpus).expect("a folder");
    for (number, line) in CAPTURED.iter().flat_map(|text| text.lines()).enumerate() {
        let record: Json = serde_json::from_str(line).expect("a record a line");
        let text = |member: &str| record[member].as_str().unwrap_or_default();
        let input = format!("{}\n{}", text("key"), text("value"));
        fs::write(corpus.join(format!("captured-{number:03}")), input).expect("written");
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
        Some(at) => (Some(&data[..at]), &data[at + 1..]),
        None => (None, data),
    };
    let facts = FactDecoder::new(table("engagement_events"));
    let contents = ContentDecoder::new(table("content"));
    let change = facts.decode(&record(key, Some(value)));
    is_shown_harmlessly(change.as_ref().err());
    is_shown_harmlessly(contents.decode(&record(key, Some(value))).err().as_ref());
    is_the_same_to_the_boards(key, value, &change);
    is_the_same_to_enrichment(&contents, &record(key, Some(value)));
    is_the_same_with_a_schema(&facts, key, value, &change);
    match &change {
        Ok(Change::Upsert { row, .. }) => {
            is_the_same_written_otherwise(&facts, row);
            belongs_to_its_key(&facts, row.id, value);
        }
        Ok(Change::Delete { id }) => {
            let own = json!({ "id": id }).to_string();
            let again = facts.decode(&record(Some(own.as_bytes()), Some(value)));
            assert_eq!(again, change);
        }
        Ok(Change::Truncate { .. } | Change::Ignored(_)) | Err(_) => {}
    }
}

/// A detail is one short line without anything that acts on a terminal.
fn is_shown_harmlessly(reject: Option<&Reject>) {
    if let Some(Reject { code, detail }) = reject {
        assert!(detail.chars().count() < 300, "{code}: {detail}");
        assert!(!detail.contains(char::is_control), "{code}: {detail:?}");
    }
}

/// A board makes one thing of one record. It reads fewer columns than the
/// others: what they understand it does too, and the same.
fn is_the_same_to_the_boards(
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
    is_what_it_is(&seconds, change, true);
    is_what_it_is(&events, change, false);
    if let BoardChange::Rejected(rejected) = &events.change {
        let BoardChange::Rejected(other) = &seconds.change else {
            panic!("{rejected:?}, but of seconds {seconds:?}");
        };
        assert_eq!(rejected.code, other.code);
    }
}

fn is_what_it_is(decoded: &Decoded, change: &Result<FactChange<'_>, Reject>, durations: bool) {
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
            let duration_ms = row.duration_ms.filter(|_| durations);
            assert_eq!(event.duration_ms, duration_ms);
        }
        (BoardChange::Event { id, event: None }, Ok(Change::Delete { id: gone })) => {
            assert_eq!(id, gone);
        }
        (BoardChange::Truncate, Ok(Change::Truncate { .. })) => {}
        (BoardChange::Ignored(why), Ok(Change::Ignored(other))) => assert_eq!(why, other),
        // Another column may be what the others reject, and comes first there.
        (BoardChange::Event { event: Some(_), .. } | BoardChange::Rejected(_), Err(_)) => {}
        // A text that is skipped is not looked at for halves of surrogate pairs.
        (_, Err(reject)) if reject.code == RejectCode::NotJson => {}
        (found, expected) => panic!("{found:?} of {expected:?}"),
    }
}

/// What the mirror of the content understands enrichment does, too.
fn is_the_same_to_enrichment(contents: &ContentDecoder, record: &Record<'_>) {
    let dimension = DimensionDecoder::new(table("content")).decode(record);
    match (contents.decode(record), dimension) {
        (Ok(Change::Upsert { row, .. }), Ok(Change::Upsert { row: found, .. })) => {
            assert_eq!(row.id, found.id);
            assert_eq!(row.content_type, found.content_type);
            assert_eq!(row.length_seconds, found.length_seconds);
        }
        (Ok(Change::Delete { id }), Ok(Change::Delete { id: gone })) => assert_eq!(id, gone),
        (Ok(Change::Truncate { .. }), Ok(Change::Truncate { .. })) => {}
        (Ok(Change::Ignored(why)), Ok(Change::Ignored(other))) => assert_eq!(why, other),
        (Err(_), _) => {}
        (found, expected) => panic!("{found:?} of {expected:?}"),
    }
}

/// Bare, and as the payload beside a schema that says nothing.
fn is_the_same_with_a_schema(
    facts: &FactDecoder,
    key: Option<&[u8]>,
    value: &[u8],
    change: &Result<FactChange<'_>, Reject>,
) {
    let Ok(Json::Object(envelope)) = serde_json::from_slice::<Json>(value) else {
        return;
    };
    // What has no `op` may be wrapped already.
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
    let other = facts.decode(&record(key, Some(&wrapped)));
    match (change, &other) {
        // The detail may say where in the text it is.
        (Err(bare), Err(wrapped)) => assert_eq!(bare.code, wrapped.code),
        _ => assert_eq!(change, &other),
    }
}

/// The row, written down anew in another order of its columns, is the row; its
/// body and its key outside are the same.
fn is_the_same_written_otherwise(facts: &FactDecoder, row: &Engagement<'_>) {
    let body = idempotency::body(row);
    let columns: Map<String, Json> = serde_json::from_slice(&body).expect("a body is JSON");
    let forwards = columns.clone();
    let backwards: Map<String, Json> = columns.into_iter().rev().collect();
    for after in [forwards, backwards] {
        let source = json!({"name": "cdc", "schema": "public", "table": "engagement_events"});
        let value = json!({"op": "c", "source": source, "after": after}).to_string();
        let key = json!({"id": row.id}).to_string();
        let change = facts.decode(&record(Some(key.as_bytes()), Some(value.as_bytes())));
        let Ok(Change::Upsert { row: again, .. }) = change else {
            panic!("{value}: {change:?}");
        };
        assert_eq!(&again, row);
        let again = idempotency::body(&again);
        assert_eq!(again, body);
        let name = facts.source().qualified();
        let keys = [&again, &body].map(|body| idempotency::idempotency_key(&name, body));
        assert_eq!(keys[0], keys[1]);
    }
}

/// Under the key of another row, or under none, it is nobody's.
fn belongs_to_its_key(facts: &FactDecoder, id: i64, value: &[u8]) {
    let code = |key: Option<&[u8]>| {
        let change = facts.decode(&record(key, Some(value)));
        change.expect_err("it is not this row's").code
    };
    let other = json!({"id": id.wrapping_add(1)}).to_string();
    assert_eq!(code(Some(other.as_bytes())), RejectCode::KeyMismatch);
    assert_eq!(code(None), RejectCode::MissingKey);
}
