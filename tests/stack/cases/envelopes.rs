//! The envelope: which records are applied, ignored and rejected.

use serde_json::{Value as Json, json};

use super::case::{Case, Fate, Sent, Subject, record, with, without};
use crate::support::Record;

pub const CASES: &[(&str, fn(&Subject) -> Case)] = &[
    ("an insert", |subject| Case::insert(subject, json!({}))),
    ("an insert inside its schema", |subject| {
        let value = subject.envelope("c", Json::Null, subject.after());
        let value = json!({"schema": {"type": "struct", "fields": []}, "payload": value});
        let key = json!({"schema": {"type": "struct"}, "payload": {"id": subject.id}});
        Case::applied(subject, vec![Sent::applied(record(&key, &value))])
    }),
    ("an update", |subject| {
        let sent = Sent::update(subject, subject.after(), subject.after());
        Case::applied(subject, vec![sent]).calls(0)
    }),
    ("a row of the first snapshot", |subject| {
        let value = subject.envelope("r", Json::Null, subject.after());
        let sent = Sent::applied(subject.record(&value)).http(Fate::Ignored("snapshot"));
        Case::applied(subject, vec![sent]).calls(0)
    }),
    ("a delete with the full row", |subject| {
        let insert = Sent::insert(subject, subject.after());
        let delete = Sent::delete(subject, subject.after());
        Case::no_effect(subject, vec![insert, delete]).calls(1)
    }),
    ("a delete with only the key", |subject| {
        let insert = Sent::insert(subject, subject.after());
        let delete = Sent::delete(subject, json!({"id": subject.id}));
        Case::no_effect(subject, vec![insert, delete]).calls(1)
    }),
    ("a tombstone", |subject| {
        let insert = Sent::insert(subject, subject.after());
        Case::applied(subject, vec![insert, Sent::tombstone(subject)])
    }),
    ("a heartbeat", |subject| {
        let heartbeat = record(&json!({"serverName": "cdc"}), &json!({"ts_ms": 1}));
        Case::no_effect(subject, vec![Sent::ignored("heartbeat", heartbeat)])
    }),
    ("a logical message", |subject| {
        let message = json!({"prefix": "fanout", "content": "ZmVuY2U="});
        let value = with(
            without(
                without(subject.envelope("m", Json::Null, Json::Null), "before"),
                "after",
            ),
            json!({"message": message}),
        );
        let message = record(&json!({"prefix": "fanout"}), &value);
        Case::no_effect(subject, vec![Sent::ignored("message", message)])
    }),
    ("an unknown op", |subject| {
        let value = subject.envelope("x", Json::Null, subject.after());
        Case::dead(subject, "unknown_op", &value)
    }),
    ("an insert without after", |subject| no_after(subject, "c")),
    ("an update without after", |subject| no_after(subject, "u")),
    ("a read without after", |subject| no_after(subject, "r")),
    ("empty bytes", |subject| bytes(subject, "empty_value", b"")),
    ("truncated json", |subject| {
        let value = subject
            .envelope("c", Json::Null, subject.after())
            .to_string();
        bytes(subject, "not_json", &value.as_bytes()[..value.len() / 2])
    }),
    ("the json null", |subject| {
        Case::dead(subject, "not_an_object", &Json::Null)
    }),
    ("a json list", |subject| {
        Case::dead(subject, "not_an_object", &json!([]))
    }),
    ("a json number", |subject| {
        Case::dead(subject, "not_an_object", &json!(42))
    }),
    ("bytes that are not utf-8", |subject| {
        bytes(subject, "not_utf8", b"{\"op\":\"\xff\"}")
    }),
    ("no key", |subject| {
        let value = subject.envelope("c", Json::Null, subject.after());
        let record = Record {
            key: None,
            ..subject.record(&value)
        };
        Case::no_effect(subject, vec![Sent::dead("missing_key", record)])
    }),
    ("a record of another table", |subject| {
        source(subject, &json!({"table": "content"}))
    }),
    ("a record of another prefix", |subject| {
        source(subject, &json!({"name": "other"}))
    }),
];

fn no_after(subject: &Subject, op: &str) -> Case {
    let value = subject.envelope(op, Json::Null, Json::Null);
    Case::dead(subject, "missing_after", &value)
}

fn bytes(subject: &Subject, code: &'static str, value: &[u8]) -> Case {
    let record = Record {
        value: Some(value.to_vec()),
        ..subject.record(&Json::Null)
    };
    Case::no_effect(subject, vec![Sent::dead(code, record)])
}

/// Returns a case with an insert from another source.
fn source(subject: &Subject, changes: &Json) -> Case {
    let mut value = subject.envelope("c", Json::Null, subject.after());
    value["source"] = with(value["source"].clone(), changes.clone());
    Case::dead(subject, "wrong_source", &value)
}
