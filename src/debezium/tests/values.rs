//! Column values: which are accepted unchanged, and which are rejected.

use super::*;
use crate::engagement::idempotency;

#[test]
fn all_columns_are_decoded() {
    let text = insert().to_string();
    let expected = Engagement {
        id: 1,
        content_id: Some(CONTENT_ID.parse().unwrap()),
        user_id: Some("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".parse().unwrap()),
        event_type: Some("play".into()),
        event_ts: EVENT_TS,
        duration_ms: Some(65_000),
        device: Some("ios".into()),
        raw_payload: Some("{\"app\": \"1.2.3\"}".into()),
    };
    assert_eq!(row(&text), expected);
}

#[test]
fn every_column_is_required() {
    for column in EngagementTable::COLUMNS {
        let mut value = insert();
        value["after"].as_object_mut().unwrap().remove(*column);
        let reject = reject(&value.to_string());
        assert_eq!(reject.code, RejectCode::MissingColumn);
        assert_eq!(reject.detail, format!("column {column} is missing"));
    }
}

#[test]
fn a_duplicate_column_is_rejected() {
    let twice = replaced("\"device\":", "\"device\":\"web\",\"device\":");
    assert_eq!(reject(&twice).code, RejectCode::DuplicateField);
    let escaped = replaced("\"device\":", "\"devi\\u0063e\":\"web\",\"device\":");
    assert_eq!(reject(&escaped).code, RejectCode::DuplicateField);
}

#[test]
fn an_unknown_column_is_skipped_and_reported() {
    let text = with("added", json!({"deep": [1]})).to_string();
    let change = decode(&text).unwrap();
    let plain = insert().to_string();
    assert!(matches!(
        change,
        Change::Upsert { row: found, extra_fields: true, .. } if found == row(&plain)
    ));
}

#[test]
fn every_64_bit_id_is_applied() {
    for id in [0, -1, i64::MIN, i64::MAX] {
        let key = json!({"id": id}).to_string();
        let value = with("id", json!(id)).to_string();
        match facts().decode(&record(Some(&key), Some(&value))) {
            Ok(Change::Upsert { row, .. }) => assert_eq!(row.id, id),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_invalid_id_is_rejected() {
    for id in [
        "\"1\"",
        "1.0",
        "1e0",
        "9223372036854775808",
        "-9223372036854775809",
        "null",
        "true",
        "[1]",
        "{}",
        "-0",
    ] {
        let value = replaced("\"id\":1", &format!("\"id\":{id}"));
        assert_eq!(reject(&value).code, RejectCode::BadId, "{id}");
    }
    let value = replaced("\"id\":1", "\"id\":2");
    assert_eq!(reject(&value).code, RejectCode::KeyMismatch);
    let value = replaced("\"id\":1", "\"id\":01");
    assert_eq!(reject(&value).code, RejectCode::NotJson);
}

#[test]
fn only_unambiguous_times_are_accepted() {
    for (value, expected) in [
        (json!("2026-11-23T10:00:00.123456Z"), Ok(EVENT_TS)),
        (json!("2026-11-23T12:00:00.123456+02:00"), Ok(EVENT_TS)),
        (json!("2026-11-23T10:00:00.123456789Z"), Ok(EVENT_TS)),
        (
            json!("1900-01-01T00:00:00Z"),
            Ok(*crate::time::timestamp::STORABLE.start()),
        ),
        (
            json!("2299-12-31T23:59:59.999999Z"),
            Ok(*crate::time::timestamp::STORABLE.end()),
        ),
        (
            json!("1899-12-31T23:59:59.999999Z"),
            Err(RejectCode::BadTimestamp),
        ),
        (json!("2300-01-01T00:00:00Z"), Err(RejectCode::BadTimestamp)),
        (
            json!("+20000-01-01T00:00:00.000000Z"),
            Err(RejectCode::BadTimestamp),
        ),
        (
            json!("-0043-03-15T00:00:00.000000Z"),
            Err(RejectCode::BadTimestamp),
        ),
        (json!("infinity"), Err(RejectCode::BadTimestamp)),
        (json!("-infinity"), Err(RejectCode::BadTimestamp)),
        (json!("2026-11-23T10:00:00"), Err(RejectCode::BadTimestamp)),
        (json!("1795428000"), Err(RejectCode::BadTimestamp)),
        (json!(""), Err(RejectCode::BadTimestamp)),
        (
            json!(1_795_428_000_123_456_i64),
            Err(RejectCode::TimestampUnitUnknown),
        ),
        (json!(1.5), Err(RejectCode::BadType)),
        (json!({}), Err(RejectCode::BadType)),
        (json!(null), Err(RejectCode::UnexpectedNull)),
    ] {
        let text = with("event_ts", value).to_string();
        let found = decode(&text).map_err(|reject| reject.code);
        let found = found.map(|_| row(&text).event_ts);
        assert_eq!(found, expected, "{text}");
    }
}

fn with_unit(value: i64, name: &Value) -> String {
    let columns = json!([{"type": "int64", "field": "event_ts", "name": name}]);
    json!({
        "schema": {"type": "struct", "fields": [
            {"type": "struct", "field": "before", "fields": []},
            {"type": "struct", "field": "after", "fields": columns},
        ]},
        "payload": with("event_ts", json!(value)),
    })
    .to_string()
}

#[test]
fn a_number_is_a_time_if_the_schema_gives_its_unit() {
    let millis = EVENT_TS / 1_000 * 1_000;
    for (value, name, expected) in [
        (EVENT_TS / 1_000, "io.debezium.time.Timestamp", millis),
        (
            EVENT_TS / 1_000,
            "org.apache.kafka.connect.data.Timestamp",
            millis,
        ),
        (EVENT_TS, "io.debezium.time.MicroTimestamp", EVENT_TS),
        (
            EVENT_TS * 1_000 + 999,
            "io.debezium.time.NanoTimestamp",
            EVENT_TS,
        ),
        (-1, "io.debezium.time.NanoTimestamp", -1),
    ] {
        assert_eq!(
            row(&with_unit(value, &json!(name))).event_ts,
            expected,
            "{name}"
        );
    }
    for (value, name, code) in [
        (5, json!(null), RejectCode::TimestampUnitUnknown),
        (
            5,
            json!("io.debezium.time.ZonedTimestamp"),
            RejectCode::TimestampUnitUnknown,
        ),
        (
            5,
            json!("io.debezium.time.Date"),
            RejectCode::TimestampUnitUnknown,
        ),
        (
            i64::MAX,
            json!("io.debezium.time.Timestamp"),
            RejectCode::BadTimestamp,
        ),
        (
            i64::MIN,
            json!("io.debezium.time.MicroTimestamp"),
            RejectCode::BadTimestamp,
        ),
    ] {
        assert_eq!(
            reject(&with_unit(value, &name)).code,
            code,
            "{value} {name}"
        );
    }
}

#[test]
fn nullable_columns_may_be_null() {
    for column in [
        "content_id",
        "user_id",
        "event_type",
        "duration_ms",
        "device",
        "raw_payload",
    ] {
        let text = with(column, json!(null)).to_string();
        let body = String::from_utf8(idempotency::body(&row(&text))).unwrap();
        assert!(body.contains(&format!("\"{column}\":null")), "{body}");
    }
}

#[test]
fn a_column_with_another_type_is_rejected() {
    for (column, value, code) in [
        ("content_id", json!("not-a-uuid"), RejectCode::BadUuid),
        ("content_id", json!(""), RejectCode::BadUuid),
        (
            "content_id",
            json!("11111111111141118111111111111111"),
            RejectCode::BadUuid,
        ),
        (
            "content_id",
            json!("g1111111-1111-4111-8111-111111111111"),
            RejectCode::BadUuid,
        ),
        ("user_id", json!(5), RejectCode::BadUuid),
        ("event_type", json!(5), RejectCode::BadType),
        ("duration_ms", json!("5"), RejectCode::BadType),
        ("duration_ms", json!(5.5), RejectCode::BadType),
        ("duration_ms", json!(5.0), RejectCode::BadType),
        ("duration_ms", json!(2_147_483_648_i64), RejectCode::BadType),
        (
            "duration_ms",
            json!(-2_147_483_649_i64),
            RejectCode::BadType,
        ),
        ("device", json!(["ios"]), RejectCode::BadType),
        ("device", json!(true), RejectCode::BadType),
    ] {
        assert_rejected(&with(column, value), code);
    }
}

#[test]
fn every_value_that_the_database_allows_is_applied() {
    for (column, value) in [
        ("duration_ms", json!(i32::MIN)),
        ("duration_ms", json!(i32::MAX)),
        ("event_type", json!("unheard-of")),
        ("event_type", json!("")),
        ("content_id", json!("AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE")),
    ] {
        assert_eq!(row(&with(column, value).to_string()).id, 1);
    }
}

#[test]
fn text_is_stored_unchanged() {
    let long = "x".repeat(1 << 20);
    for text in [
        "\0",
        "\u{202e}evil",
        "😀\u{200d}👩",
        "\u{1b}[2J",
        "a\"b\\c/",
        "",
        &long,
    ] {
        let value = with("device", json!(text)).to_string();
        assert_eq!(row(&value).device.as_deref(), Some(text));
    }
    let value = replaced("\"ios\"", "\"\\ud83d\\ude00\\u0000\\/\"");
    assert_eq!(row(&value).device.as_deref(), Some("😀\0/"));
}

#[test]
fn a_payload_is_stored_unchanged() {
    let large = format!("{{\"x\": \"{}\"}}", "y".repeat(10 << 20));
    for text in [
        "null",
        "42",
        "1.50",
        "\"doubly \\\"encoded\\\"\"",
        "[]",
        "not json",
        &large,
    ] {
        let value = with("raw_payload", json!(text)).to_string();
        assert_eq!(row(&value).raw_payload.as_deref(), Some(text));
    }
}

#[test]
fn a_payload_that_is_a_json_value_keeps_its_exact_text() {
    let quoted = json!("{\"app\": \"1.2.3\"}").to_string();
    for text in [
        "{ \"b\":1,  \"a\": [1.50, 1e2]}",
        "[ ]",
        "42",
        "-0",
        "1.0",
        "true",
        "false",
    ] {
        let value = replaced(&quoted, text);
        assert_eq!(row(&value).raw_payload.as_deref(), Some(text));
        let wrapped = format!("{{\"payload\":{value}}}");
        assert_eq!(row(&wrapped).raw_payload.as_deref(), Some(text));
    }
}

#[test]
fn an_unchanged_value_is_taken_from_before() {
    let unavailable = json!("__debezium_unavailable_value");
    for (before, expected) in [
        (json!({"device": "web"}), Ok(Some("web"))),
        // In all columns but the key, null in an old row may mean that the value is absent.
        (
            json!({"id": 1, "device": null, "event_ts": null}),
            Err(RejectCode::UnavailableValue),
        ),
        (json!({"id": 1}), Err(RejectCode::UnavailableValue)),
        (json!(null), Err(RejectCode::UnavailableValue)),
        (json!({"device": 5}), Err(RejectCode::BadType)),
        (json!("web"), Err(RejectCode::BadType)),
    ] {
        let mut value = with("device", unavailable.clone());
        value["op"] = json!("u");
        value["before"] = before;
        let text = value.to_string();
        let found = decode(&text).map(|_| row(&text).device);
        let found = found.map_err(|reject| reject.code);
        assert_eq!(
            found,
            expected.map(|device| device.map(Into::into)),
            "{text}"
        );
    }
    let mut twice = with("device", unavailable.clone());
    twice["op"] = json!("u");
    let text = twice.to_string().replace(
        "\"before\":null",
        r#""before":{"device":"tv","device":"web"}"#,
    );
    assert_eq!(reject(&text).code, RejectCode::DuplicateField);
    let mut value = with("raw_payload", unavailable);
    value["op"] = json!("u");
    value["before"] = json!({"raw_payload": {"a": [1]}});
    let text = value.to_string();
    assert_eq!(row(&text).raw_payload.as_deref(), Some("{\"a\":[1]}"));
}

/// A user's text is stored, even if it looks like a placeholder.
#[test]
fn a_text_that_looks_like_a_placeholder_is_stored_if_it_is_unambiguous() {
    let text = "__debezium_unavailable_value";
    for column in ["device", "event_type", "raw_payload"] {
        for op in ["c", "r"] {
            let mut value = with(column, json!(text));
            value["op"] = json!(op);
            assert_eq!(stored(&value, column).as_deref(), Some(text), "{op}");
        }
        for old in [json!(text), json!(null)] {
            let mut value = with(column, json!(text));
            value["op"] = json!("u");
            value["before"] = insert()["after"].clone();
            value["before"][column] = old;
            assert_eq!(stored(&value, column).as_deref(), Some(text), "{column}");
        }
    }
}

/// Returns the text in a column of the decoded row.
fn stored(value: &Value, column: &str) -> Option<String> {
    let text = value.to_string();
    let body: Value = serde_json::from_slice(&idempotency::body(&row(&text))).unwrap();
    body[column].as_str().map(str::to_owned)
}

/// The old placeholder is valid up to the switch, the new one in all records.
#[test]
fn a_placeholder_is_valid_only_in_its_part_of_the_log() {
    let (default, id) = ("__debezium_unavailable_value", Uuid::from_u128(1));
    let mut placeholders = unavailable::Placeholders::new("mine".to_owned());
    let until = unavailable::TopicEnd {
        topic_id: id,
        offsets: vec![7],
    };
    placeholders.add_earlier(default, Some([("topic".to_owned(), until)].into()));
    let known = Unavailable::default();
    known.replace(placeholders.known_in("topic", id));
    let decoder = FactDecoder::with_placeholders(source_table("engagement_events"), known);
    let device = |text: &str, offset: i64| {
        let mut value = with("device", json!(text));
        value["op"] = json!("u");
        value["before"] = insert()["after"].clone();
        let value = value.to_string();
        let record = Record {
            offset,
            ..record(Some("{\"id\":1}"), Some(&value))
        };
        match decoder.decode(&record) {
            Ok(Change::Upsert { row, .. }) => row.device.map(std::borrow::Cow::into_owned),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(device(default, 6).as_deref(), Some("ios"));
    assert_eq!(device(default, 7).as_deref(), Some(default));
    assert_eq!(device("mine", 6).as_deref(), Some("ios"));
    assert_eq!(device("mine", 7).as_deref(), Some("ios"));
    assert_eq!(device("other", 6).as_deref(), Some("other"));
}

#[test]
fn a_reject_shows_a_short_escaped_excerpt_of_the_value() {
    let long = format!("\u{1b}[31m{}", "x".repeat(100_000));
    let reject = reject(&with("content_id", json!(long)).to_string());
    assert!(
        reject
            .detail
            .starts_with("column content_id is not a UUID: \"\\u{1b}[31mxxx")
    );
    assert!(reject.detail.len() < 120, "{}", reject.detail);
}

#[test]
fn content_is_decoded_with_the_columns_of_its_table() {
    let mut value = insert();
    value["source"]["table"] = json!("content");
    value["after"] = json!({
        "id": CONTENT_ID, "slug": "pod-1", "title": "Podcast", "content_type": null,
        "length_seconds": null, "publish_ts": "2026-11-23T10:00:00.123456Z"
    });
    let key = json!({"id": CONTENT_ID}).to_string();
    let text = value.to_string();
    let change = contents().decode(&record(Some(&key), Some(&text)));
    let row = Content {
        id: CONTENT_ID.parse().unwrap(),
        title: "Podcast".into(),
        content_type: None,
        length_seconds: None,
    };
    let expected = Change::Upsert {
        origin: Origin::Insert,
        row,
        extra_fields: false,
        lsn: Some(LSN),
    };
    assert_eq!(change, Ok(expected));
    for (column, wrong, code) in [
        ("id", json!("x"), RejectCode::BadId),
        (
            "id",
            json!("22222222-2222-4222-8222-222222222222"),
            RejectCode::KeyMismatch,
        ),
        ("title", json!(null), RejectCode::UnexpectedNull),
        ("length_seconds", json!(1.5), RejectCode::BadType),
    ] {
        let mut value = value.clone();
        value["after"][column] = wrong;
        let text = value.to_string();
        let change = contents().decode(&record(Some(&key), Some(&text)));
        assert_eq!(
            change.map_err(|reject| reject.code).err(),
            Some(code),
            "{column}"
        );
    }
}
