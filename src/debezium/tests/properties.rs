//! Decoding never panics and never invents values, whatever the bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("__debezium_unavailable_value")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let name = prop_oneof![
            4 => proptest::sample::select(&[
                "before", "after", "source", "op", "ts_ms", "schema", "payload", "id",
                "event_ts", "device", "raw_payload", "fields", "field", "name", "table",
            ][..]).prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Generates a text that a user may store, or none.
fn text() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        9 => any::<Option<String>>(),
        1 => Just(Some("__debezium_unavailable_value".to_owned())),
    ]
}

/// Returns the `op` of an envelope. Other members may be invalid, for example a number out of
/// range.
fn op(envelope: &[u8]) -> Option<String> {
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(envelope).ok()?;
    match members.get("op") {
        Some(op) => serde_json::from_str(op.get()).ok(),
        None => op(members.get("payload")?.get().as_bytes()),
    }
}

#[test]
fn an_unread_number_out_of_range_does_not_matter() {
    let text = insert().to_string();
    let number = insert()["ts_ms"].to_string();
    let damaged = text.replace(&number, "1e999");
    assert_ne!(text, damaged);
    check_invariants(Some(b"{\"id\":1}"), Some(damaged.as_bytes()));
}

/// Asserts that a change is never of another kind than its `op`.
fn assert_matches_op(record: &Record<'_>, change: &Result<FactChange<'_>, Reject>) {
    let expected = match change {
        Ok(Change::Upsert { .. }) => &["c", "u", "r"][..],
        Ok(Change::Delete { .. }) => &["d"],
        Ok(Change::Truncate { .. }) => &["t"],
        Ok(Change::Ignored(Ignored::Message)) => &["m"],
        Ok(Change::Ignored(Ignored::Tombstone)) => {
            assert_eq!(record.value, None);
            return;
        }
        Ok(Change::Ignored(Ignored::Heartbeat)) | Err(_) => return,
    };
    let op = op(record.value.unwrap_or_default());
    assert!(
        op.as_deref().is_some_and(|op| expected.contains(&op)),
        "{op:?}: {change:?}"
    );
}

fn check_invariants(key: Option<&[u8]>, value: Option<&[u8]>) {
    let record = Record {
        key,
        value,
        ..record(None, None)
    };
    let change = facts().decode(&record);
    assert_matches_op(&record, &change);
    if let Err(reject) = change {
        assert!(reject.detail.chars().count() < 300, "{}", reject.detail);
        assert!(
            !reject.detail.contains(char::is_control),
            "{}",
            reject.detail
        );
    }
    let _ = contents().decode(&record);
    assert_narrower_readers_agree(&record, &facts().decode(&record));
}

/// Asserts that a reader of fewer columns decodes the same values as a reader of more.
fn assert_narrower_readers_agree(record: &Record<'_>, all: &Result<FactChange<'_>, Reject>) {
    let seconds = Decoder::<CountedTable<true>>::new(source_table("engagement_events"));
    let seconds = seconds.decode(record);
    let events = Decoder::<CountedTable<false>>::new(source_table("engagement_events"));
    let events = events.decode(record);
    if let Ok(all) = all {
        let expected = counted_change(all);
        assert_eq!(seconds.as_ref(), Ok(&expected));
    }
    if let Ok(seconds) = seconds {
        let expected = match seconds {
            Change::Upsert {
                origin,
                row,
                extra_fields,
                lsn,
            } => Change::Upsert {
                origin,
                row: Counted {
                    duration_ms: None,
                    ..row
                },
                extra_fields,
                lsn,
            },
            other => other,
        };
        assert_eq!(events, Ok(expected));
    }
}

/// Returns the change as a board of seconds decodes it.
fn counted_change(change: &FactChange<'_>) -> Change<Counted, i64> {
    match change {
        Change::Upsert {
            origin,
            row,
            extra_fields,
            lsn,
        } => Change::Upsert {
            origin: *origin,
            row: Counted {
                id: row.id,
                content_id: row.content_id,
                event_ts: row.event_ts,
                duration_ms: row.duration_ms,
            },
            extra_fields: *extra_fields,
            lsn: *lsn,
        },
        Change::Delete { id } => Change::Delete { id: *id },
        Change::Truncate { lsn } => Change::Truncate { lsn: *lsn },
        Change::Ignored(ignored) => Change::Ignored(*ignored),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_decoded_without_a_panic(
        key in proptest::option::of(any::<Vec<u8>>()),
        value in proptest::option::of(any::<Vec<u8>>()),
    ) {
        check_invariants(key.as_deref(), value.as_deref());
    }

    #[test]
    fn any_json_is_decoded_without_a_panic(key in any_json(), value in any_json()) {
        check_invariants(Some(key.to_string().as_bytes()), Some(value.to_string().as_bytes()));
    }

    #[test]
    fn any_value_at_any_path_is_decoded_without_a_panic(
        value in any_json(),
        path in proptest::sample::select(&[
            "/before", "/after", "/source", "/op", "/ts_ms", "/source/table", "/source/snapshot",
            "/after/id", "/after/content_id", "/after/event_type", "/after/event_ts",
            "/after/duration_ms", "/after/device", "/after/raw_payload",
        ][..]),
        op in proptest::sample::select(&["c", "u", "r", "d", "t", "m"][..]),
    ) {
        let mut record = insert();
        record["op"] = json!(op);
        *record.pointer_mut(path).unwrap() = value;
        check_invariants(Some(b"{\"id\":1}"), Some(record.to_string().as_bytes()));
        let wrapped = json!({"schema": record["after"], "payload": record});
        check_invariants(Some(b"{\"id\":1}"), Some(wrapped.to_string().as_bytes()));
    }

    #[test]
    fn a_damaged_record_is_decoded_without_a_panic(
        cut in 0..600_usize,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = insert().to_string().into_bytes();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_invariants(Some(b"{\"id\":1}"), Some(&bytes));
        let end = cut.min(bytes.len());
        check_invariants(Some(b"{\"id\":1}"), Some(&bytes[..end]));
        check_invariants(Some(&bytes[..end]), Some(insert().to_string().as_bytes()));
    }

    #[test]
    fn a_row_is_decoded_unchanged(
        id: i64, duration: Option<i32>, device in text(), payload in text(),
        event_ts in crate::time::timestamp::STORABLE, wrapped: bool, content: Option<u128>,
    ) {
        let mut value = insert();
        let content_id = content.map(Uuid::from_u128);
        value["after"] = json!({
            "id": id, "content_id": content_id, "user_id": null, "event_type": "click",
            "event_ts": crate::time::timestamp::Rfc3339(event_ts).to_string(),
            "duration_ms": duration, "device": device, "raw_payload": payload,
        });
        if wrapped {
            value = json!({"schema": {}, "payload": value});
        }
        let (key, text) = (json!({"id": id}).to_string(), value.to_string());
        let change = facts().decode(&record(Some(&key), Some(&text)));
        let row = Engagement {
            id, content_id, user_id: None, event_type: Some("click".into()), event_ts,
            duration_ms: duration,
            device: device.as_deref().map(Into::into),
            raw_payload: payload.as_deref().map(Into::into),
        };
        let expected = Change::Upsert {
            origin: Origin::Insert, row, extra_fields: false, lsn: Some(LSN),
        };
        prop_assert_eq!(change, Ok(expected));
    }
}
