//! Columns that each reader requires, and errors that indicate a changed table.

use super::*;

type Events = Decoder<CountedTable<false>>;
type Seconds = Decoder<CountedTable<true>>;

fn content_insert() -> Value {
    let mut value = insert();
    value["source"]["table"] = json!("content");
    value["after"] = json!({
        "id": CONTENT_ID, "slug": "pod-1", "title": "Podcast", "content_type": "podcast",
        "length_seconds": 1800, "publish_ts": "2026-11-23T10:00:00.123456Z"
    });
    value
}

/// Returns true if a reader accepts any value of this column, and also its absence.
fn accepts_any_value<T: Table>(record: &Value, table: &str, column: &str) -> bool {
    let decoder = Decoder::<T>::new(source_table(table));
    let key = json!({"id": record["after"]["id"]}).to_string();
    let mut values: Vec<String> = [
        json!("infinity"),
        json!(-1),
        json!(1e99),
        json!([]),
        json!(null),
        json!("\u{0}"),
        json!(true),
    ]
    .into_iter()
    .map(|value| {
        let mut record = record.clone();
        record["after"][column] = value;
        record.to_string()
    })
    .collect();
    let mut without = record.clone();
    without["after"].as_object_mut().unwrap().remove(column);
    values.push(without.to_string());
    let member = format!("\"{column}\":");
    let twice = format!("{member}null,{member}");
    values.push(record.to_string().replacen(&member, &twice, 1));
    let applied = |value: &String| {
        let change = decoder.decode(&super::record(Some(&key), Some(value)));
        matches!(
            change,
            Ok(Change::Upsert {
                extra_fields: false,
                ..
            })
        )
    };
    values.iter().all(applied)
}

#[test]
fn a_column_that_is_not_read_rejects_no_record() {
    for column in [
        "user_id",
        "event_type",
        "duration_ms",
        "device",
        "raw_payload",
    ] {
        assert!(
            accepts_any_value::<CountedTable<false>>(&insert(), "engagement_events", column),
            "{column}"
        );
        let seconds =
            accepts_any_value::<CountedTable<true>>(&insert(), "engagement_events", column);
        assert_eq!(seconds, column != "duration_ms", "{column}");
        assert!(
            !accepts_any_value::<EngagementTable>(&insert(), "engagement_events", column),
            "{column}"
        );
    }
    for column in ["slug", "publish_ts"] {
        assert!(accepts_any_value::<ContentTable>(
            &content_insert(),
            "content",
            column
        ));
        assert!(accepts_any_value::<DimensionTable>(
            &content_insert(),
            "content",
            column
        ));
    }
    assert!(accepts_any_value::<DimensionTable>(
        &content_insert(),
        "content",
        "title"
    ));
    assert!(!accepts_any_value::<ContentTable>(
        &content_insert(),
        "content",
        "title"
    ));
    for column in ["content_type", "length_seconds"] {
        assert!(!accepts_any_value::<DimensionTable>(
            &content_insert(),
            "content",
            column
        ));
    }
}

#[test]
fn each_reader_lists_the_columns_that_it_reads() {
    let events = ["id", "content_id", "event_ts"];
    assert_eq!(columns_read::<CountedTable<false>>(), events);
    let seconds = ["id", "content_id", "event_ts", "duration_ms"];
    assert_eq!(columns_read::<CountedTable<true>>(), seconds);
    assert_eq!(columns_read::<EngagementTable>(), EngagementTable::COLUMNS);
    let dimension = ["id", "content_type", "length_seconds"];
    assert_eq!(columns_read::<DimensionTable>(), dimension);
}

#[test]
fn each_board_reads_the_columns_that_it_counts() {
    let text = insert().to_string();
    let record = record(Some("{\"id\":1}"), Some(&text));
    let table = || source_table("engagement_events");
    let row = |change: Result<Change<Counted, i64>, Reject>| match change {
        Ok(Change::Upsert { row, .. }) => row,
        other => panic!("{other:?}"),
    };
    let seconds = row(Seconds::new(table()).decode(&record));
    let expected = Counted {
        id: 1,
        content_id: Some(CONTENT_ID.parse().unwrap()),
        event_ts: EVENT_TS,
        duration_ms: Some(65_000),
    };
    assert_eq!(seconds, expected);
    let events = row(Events::new(table()).decode(&record));
    let duration_ms = None;
    assert_eq!(
        events,
        Counted {
            duration_ms,
            ..expected
        }
    );
}

/// These errors occur in all records of a changed table.
#[test]
fn a_shape_error_indicates_a_changed_table() {
    for column in &EngagementTable::COLUMNS[1..] {
        let mut value = insert();
        value["after"].as_object_mut().unwrap().remove(*column);
        assert_eq!(shape(&value), Some(Shape::Column(column)));
    }
    for (column, value) in [
        ("content_id", json!(7)),
        ("user_id", json!({})),
        ("event_type", json!(3)),
        ("event_ts", json!(1_795_428_000_123_456_i64)),
        ("event_ts", json!(1.5)),
        ("event_ts", json!([])),
        // A numeric column arrives as text in base64, and a float column has a fraction.
        ("duration_ms", json!("AfQ=")),
        ("duration_ms", json!(1500.0)),
        ("device", json!(true)),
        ("device", json!({"a": 1})),
    ] {
        let shape = shape(&with(column, value));
        assert!(
            matches!(shape, Some(Shape::Column(name)) if name == column),
            "{column}: {shape:?}"
        );
    }
}

/// These errors concern one bad record; the next one may be valid.
#[test]
fn a_bad_value_or_garbage_does_not_indicate_a_changed_table() {
    for (column, value) in [
        ("content_id", json!("no uuid")),
        ("event_ts", json!("infinity")),
        ("event_ts", json!("2026-11-23 10:00:00")),
        ("event_ts", json!(null)),
        ("duration_ms", json!(2_147_483_648_i64)),
        ("duration_ms", json!(18_446_744_073_709_551_615_u64)),
        ("id", json!("1")),
        ("id", json!(2)),
    ] {
        assert_eq!(shape(&with(column, value)), None, "{column}");
    }
    let mut no_id = insert();
    no_id["after"].as_object_mut().unwrap().remove("id");
    let mut other = insert();
    other["source"]["table"] = json!("other");
    other["after"].as_object_mut().unwrap().remove("device");
    let mut no_after = insert();
    no_after["after"] = json!(null);
    for value in [
        no_id,
        other,
        no_after,
        json!({}),
        json!({"ts_ms": 1, "id": 1}),
    ] {
        assert_eq!(shape(&value), None, "{value}");
    }
    for text in ["", "{", "[]", "null", "42", "{\"op\":\"c\"}"] {
        assert_eq!(reject(text).shape, None, "{text}");
    }
    let twice = replaced("\"device\":", "\"device\":\"web\",\"device\":");
    assert_eq!(reject(&twice).shape, None);
}

fn shape(value: &Value) -> Option<Shape> {
    reject(&value.to_string()).shape
}

/// If the primary key changed, key and row have the same wrong id in all records.
#[test]
fn a_changed_primary_key_is_a_shape_error() {
    let decode_shape = |key: Value, id: Option<Value>| {
        let mut value = insert();
        let after = value["after"].as_object_mut().unwrap();
        after.remove("id");
        after.extend(id.map(|id| ("id".to_owned(), id)));
        let (key, value) = (key.to_string(), value.to_string());
        let reject = facts()
            .decode(&record(Some(&key), Some(&value)))
            .unwrap_err();
        assert_eq!(reject.code, RejectCode::BadKey, "{key}");
        reject.shape
    };
    let renamed = decode_shape(json!({"event_id": 1}), None);
    assert_eq!(renamed, Some(Shape::Column("id")));
    let text = decode_shape(json!({"id": "1"}), Some(json!("1")));
    assert_eq!(text, Some(Shape::Column("id")));
    for (key, id) in [
        (json!({"id": "1"}), Some(json!(1))),
        (json!({"id": "1"}), None),
        (json!({"event_id": 1}), Some(json!(1))),
        (json!(7), None),
    ] {
        assert_eq!(decode_shape(key.clone(), id.clone()), None, "{key} {id:?}");
    }
}

/// A transform can flatten all records to bare rows.
#[test]
fn a_row_without_its_envelope_is_a_shape_error() {
    let flat = insert()["after"].clone();
    let wrapped = json!({"schema": {"type": "struct"}, "payload": flat});
    let mut few = flat.clone();
    few.as_object_mut()
        .unwrap()
        .retain(|name, _| name == "id" || name == "device");
    for value in [&flat, &wrapped, &few] {
        let reject = reject(&value.to_string());
        assert_eq!(reject.code, RejectCode::MissingOp);
        assert_eq!(reject.shape, Some(Shape::Envelope), "{value}");
    }
    let mut other = flat;
    other["id"] = json!(2);
    assert_eq!(shape(&other), None, "the id differs from the key's");
    assert_eq!(shape(&json!({"id": 1})), None);
    assert_eq!(shape(&json!({"id": 1, "name": "another table"})), None);
}
