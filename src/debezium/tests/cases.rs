//! The envelope and the key: which records are applied, ignored and rejected.

use super::*;

#[test]
fn a_record_decodes_to_the_same_row_with_and_without_its_schema() {
    let bare = insert().to_string();
    let wrapped = json!({"schema": {"type": "struct"}, "payload": insert()}).to_string();
    assert_eq!(row(&bare), row(&wrapped));
    let only_payload = json!({"payload": insert()}).to_string();
    assert_eq!(row(&bare), row(&only_payload));
}

#[test]
fn each_op_is_decoded_to_its_change() {
    for (op, snapshot, origin) in [
        ("c", "false", Origin::Insert),
        ("u", "false", Origin::Update),
        ("r", "first", Origin::Snapshot),
        ("r", "true", Origin::Snapshot),
        ("r", "incremental", Origin::IncrementalSnapshot),
    ] {
        let mut value = insert();
        value["op"] = json!(op);
        value["source"]["snapshot"] = json!(snapshot);
        value["source"]["lsn"] = json!(null);
        let text = value.to_string();
        match decode(&text) {
            Ok(Change::Upsert {
                origin: found,
                extra_fields,
                ..
            }) => assert_eq!((found, extra_fields), (origin, false)),
            other => panic!("{op}: {other:?}"),
        }
    }
}

#[test]
fn a_delete_requires_only_its_key() {
    let mut value = insert();
    value["op"] = json!("d");
    for before in [
        insert()["after"].clone(),
        json!(null),
        json!({"id": 1}),
        json!({"id": 1, "device": null}),
        json!({}),
    ] {
        value["before"] = before;
        value["after"] = json!(null);
        assert_eq!(decode(&value.to_string()), Ok(Change::Delete { id: 1 }));
    }
    value["before"] = json!({"id": 2});
    assert_rejected(&value, RejectCode::KeyMismatch);
    value["before"] = json!({"id": "1"});
    assert_rejected(&value, RejectCode::BadId);
    value["before"] = json!([1]);
    assert_rejected(&value, RejectCode::BadType);
    value["before"] = json!({"id": 1});
    let twice = value
        .to_string()
        .replace("\"before\":{", "\"before\":{\"id\":2,");
    assert_eq!(reject(&twice).code, RejectCode::DuplicateField);
}

#[test]
fn a_record_that_changes_no_row_is_ignored_whatever_its_key() {
    let message = json!({
        "op": "m", "ts_ms": 1, "source": {"name": "cdc", "schema": "", "table": ""},
        "message": {"prefix": "fanout", "content": "AA=="}
    });
    let heartbeat = json!({"ts_ms": 1});
    let wrapped = json!({"schema": {}, "payload": heartbeat});
    for (value, ignored) in [
        (None, Ignored::Tombstone),
        (Some(message.to_string()), Ignored::Message),
        (Some(heartbeat.to_string()), Ignored::Heartbeat),
        (Some(wrapped.to_string()), Ignored::Heartbeat),
    ] {
        for key in [None, Some("{\"serverName\":\"cdc\"}"), Some("")] {
            let change = facts().decode(&record(key, value.as_deref()));
            assert_eq!(change, Ok(Change::Ignored(ignored)), "{value:?}");
        }
    }
}

#[test]
fn a_truncate_requires_no_key() {
    let mut value = insert();
    value["op"] = json!("t");
    value["after"] = json!(null);
    let text = value.to_string();
    let change = facts().decode(&record(None, Some(&text)));
    assert!(matches!(change, Ok(Change::Truncate { .. })), "{change:?}");
    value["source"]["table"] = json!("other");
    assert_rejected(&value, RejectCode::WrongSource);
}

#[test]
fn a_value_that_is_not_an_event_is_rejected() {
    for (value, code) in [
        ("", RejectCode::EmptyValue),
        (" ", RejectCode::NotJson),
        ("{", RejectCode::NotJson),
        ("{} x", RejectCode::NotJson),
        ("{\"op\":\"c\",\"after\":{\"id\":1", RejectCode::NotJson),
        ("{\"op\":\"c\\ud800\"}", RejectCode::NotJson),
        ("\u{feff}{}", RejectCode::NotJson),
        ("null", RejectCode::NotAnObject),
        ("[]", RejectCode::NotAnObject),
        ("42", RejectCode::NotAnObject),
        ("\"text\"", RejectCode::NotAnObject),
        ("true", RejectCode::NotAnObject),
        (
            "{\"schema\":null,\"payload\":null}",
            RejectCode::NotAnObject,
        ),
        (
            "{\"payload\":{\"payload\":{\"ts_ms\":1}}}",
            RejectCode::MissingOp,
        ),
        ("{}", RejectCode::MissingOp),
        ("{\"id\":1}", RejectCode::MissingOp),
        ("{\"ts_ms\":1,\"id\":1}", RejectCode::MissingOp),
        ("{\"ts_ms\":1,\"after\":null}", RejectCode::MissingOp),
        ("{\"op\":null}", RejectCode::UnknownOp),
        ("{\"op\":\"x\"}", RejectCode::UnknownOp),
        ("{\"op\":\"\"}", RejectCode::UnknownOp),
        ("{\"op\":1}", RejectCode::UnknownOp),
        ("{\"op\":[\"c\"]}", RejectCode::UnknownOp),
        ("{\"op\":\"c\",\"op\":\"d\"}", RejectCode::DuplicateField),
        ("{\"op\":\"c\"}", RejectCode::MissingSource),
    ] {
        assert_eq!(reject(value).code, code, "{value}");
    }
    let bytes = Record {
        value: Some(b"{\"op\":\"\xff\"}"),
        ..record(None, None)
    };
    let code = facts().decode(&bytes).map_err(|reject| reject.code);
    assert_eq!(code, Err(RejectCode::NotUtf8));
}

#[test]
fn an_upsert_without_after_is_rejected() {
    for op in ["c", "u", "r"] {
        for after in [json!(null), json!([]), json!(1), json!("x")] {
            let mut value = insert();
            value["op"] = json!(op);
            value["after"] = after;
            assert_rejected(&value, RejectCode::MissingAfter);
        }
    }
    assert_eq!(
        reject(&replaced("\"after\"", "\"later\"")).code,
        RejectCode::MissingAfter
    );
}

#[test]
fn a_record_from_another_table_or_connector_is_rejected() {
    for (member, value, code) in [
        ("table", json!("content"), RejectCode::WrongSource),
        ("table", json!("Engagement_Events"), RejectCode::WrongSource),
        ("table", json!(5), RejectCode::WrongSource),
        ("table", json!(null), RejectCode::MissingSource),
        ("schema", json!("private"), RejectCode::WrongSource),
        ("name", json!("other"), RejectCode::WrongSource),
    ] {
        let mut record = insert();
        record["source"][member] = value;
        assert_rejected(&record, code);
    }
    for source in [json!(null), json!("cdc"), json!([]), json!({})] {
        let mut record = insert();
        record["source"] = source;
        assert_rejected(&record, RejectCode::MissingSource);
    }
    let twice = replaced("\"table\":", "\"table\":\"engagement_events\",\"table\":");
    assert_eq!(reject(&twice).code, RejectCode::DuplicateField);
    let only_table = json!({"table": "engagement_events"});
    let mut record = insert();
    record["source"] = only_table;
    assert_eq!(row(&record.to_string()).id, 1);
}

#[test]
fn the_key_must_match_the_row() {
    let value = insert().to_string();
    for (key, code) in [
        (None, Some(RejectCode::MissingKey)),
        (Some(""), Some(RejectCode::BadKey)),
        (Some("null"), Some(RejectCode::BadKey)),
        (Some("1"), Some(RejectCode::BadKey)),
        (Some("{}"), Some(RejectCode::BadKey)),
        (Some("{\"id\":\"1\"}"), Some(RejectCode::BadKey)),
        (Some("{\"id\":1.0}"), Some(RejectCode::BadKey)),
        (Some("{\"id\":null}"), Some(RejectCode::BadKey)),
        (Some("{\"id\":1,\"id\":1}"), Some(RejectCode::BadKey)),
        (Some("{\"payload\":null}"), Some(RejectCode::BadKey)),
        (Some("{\"id\":1"), Some(RejectCode::BadKey)),
        (Some("{\"id\":2}"), Some(RejectCode::KeyMismatch)),
        (
            Some("{\"schema\":{},\"payload\":{\"id\":2}}"),
            Some(RejectCode::KeyMismatch),
        ),
        (Some("{\"id\":1}"), None),
        (Some(" { \"id\" : 1 } "), None),
        (Some("{\"schema\":{},\"payload\":{\"id\":1}}"), None),
    ] {
        let change = facts().decode(&record(key, Some(&value)));
        assert_eq!(change.err().map(|reject| reject.code), code, "{key:?}");
    }
    let bytes = Record {
        key: Some(b"\xff"),
        ..record(None, Some(&value))
    };
    let code = facts().decode(&bytes).map_err(|reject| reject.code);
    assert_eq!(code, Err(RejectCode::BadKey));
}

#[test]
fn deep_nesting_uses_no_stack() {
    const DEPTH: usize = 1_000_000;
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    assert_eq!(reject(&deep).code, RejectCode::NotAnObject);
    assert_eq!(
        row(&replaced(
            "\"transaction\":null",
            &format!("\"transaction\":{deep}")
        ))
        .id,
        1
    );
    assert_eq!(
        row(&replaced("\"xmin\":null", &format!("\"xmin\":{deep}"))).id,
        1
    );
    let device = replaced("\"ios\"", &deep);
    assert_eq!(reject(&device).code, RejectCode::BadType);
    let payload = with("raw_payload", json!(0))
        .to_string()
        .replace("\"raw_payload\":0", &format!("\"raw_payload\":{deep}"));
    assert_eq!(row(&payload).raw_payload.as_deref(), Some(deep.as_str()));
    let schema = format!("{{\"schema\":{deep},\"payload\":{}}}", insert());
    assert_eq!(row(&schema).id, 1);
    let unit = with("event_ts", json!(5));
    let schema = format!("{{\"schema\":{deep},\"payload\":{unit}}}");
    assert_eq!(reject(&schema).code, RejectCode::TimestampUnitUnknown);
    let value = insert().to_string();
    let key = facts().decode(&record(Some(&deep), Some(&value)));
    assert_eq!(
        key.map_err(|reject| reject.code).err(),
        Some(RejectCode::BadKey)
    );
}

#[test]
fn the_codes_are_unique_names() {
    let codes: std::collections::BTreeSet<_> =
        RejectCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes.len(), RejectCode::ALL.len());
    for code in codes {
        assert!(
            code.chars()
                .all(|c| c.is_ascii_lowercase() || c == '_' || c == '8'),
            "{code}"
        );
    }
}

#[test]
fn a_tombstone_of_content_is_a_delete() {
    let key = json!({"id": CONTENT_ID}).to_string();
    let id = CONTENT_ID.parse().unwrap();
    assert_eq!(
        contents().decode(&record(Some(&key), None)),
        Ok(Change::Delete { id })
    );
    let reject = contents().decode(&record(None, None)).unwrap_err();
    assert_eq!(reject.code, RejectCode::MissingKey);
}
