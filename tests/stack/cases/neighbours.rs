//! Variations of the records in the other tables.

use serde_json::{Value as Json, json};

use super::case::{Case, Fate, Sent, Subject, with};
use crate::support::Record;

pub const CASES: &[(&str, fn(&Subject) -> Case)] = &[
    ("an update of an event that does not exist", |subject| {
        let sent = Sent::update(subject, Json::Null, subject.after());
        Case::applied(subject, vec![sent]).calls(0)
    }),
    ("a delete of an event that does not exist", |subject| {
        let sent = vec![Sent::delete(subject, Json::Null), Sent::tombstone(subject)];
        Case::no_effect(subject, sent)
    }),
    ("two deletes of one event", |subject| {
        let delete = Sent::delete(subject, subject.after());
        let insert = Sent::insert(subject, subject.after());
        Case::no_effect(subject, vec![insert, delete.clone(), delete]).calls(1)
    }),
    ("an update after a delete", |subject| {
        let after = with(subject.after(), json!({"device": "again"}));
        let sent = vec![
            Sent::insert(subject, subject.after()),
            Sent::delete(subject, subject.after()),
            Sent::update(subject, subject.after(), after),
        ];
        Case::applied(subject, sent).row(json!({"device": "again"}))
    }),
    ("a delete whose old row has another id", |subject| {
        let before = with(subject.after(), json!({"id": subject.id + 5}));
        let value = subject.envelope("d", before, Json::Null);
        let dead = Sent::dead("key_mismatch", subject.record(&value));
        let insert = Sent::insert(subject, subject.after());
        Case::applied(subject, vec![insert, dead])
    }),
    ("a delete without a key", |subject| {
        let value = subject.envelope("d", subject.after(), Json::Null);
        let record = Record {
            key: None,
            ..subject.record(&value)
        };
        Case::no_effect(subject, vec![Sent::dead("missing_key", record)])
    }),
    ("an update that removes an event's content", |subject| {
        let after = with(subject.after(), json!({"content_id": null}));
        let sent = vec![
            Sent::insert(subject, subject.after()),
            Sent::update(subject, subject.after(), after).redis(Fate::Ignored("no_content")),
        ];
        let nulls = json!({
            "content_id": null, "engagement_pct": null, "content_type": null,
            "length_seconds": null,
        });
        Case::applied(subject, sent).counted(&[]).row(nulls)
    }),
    (
        "an update that moves an event out of the window",
        |subject| {
            let old = subject.at(-3600);
            let sent = vec![
                Sent::insert(subject, subject.after()),
                Sent::update(subject, subject.after(), old.after()).redis(Fate::Ignored("too_old")),
            ];
            let time = json!({"event_ts": old.row()["event_ts"]});
            Case::applied(subject, sent).counted(&[]).row(time)
        },
    ),
    ("an update that moves an event into the window", |subject| {
        let old = subject.at(-3600);
        let sent = vec![
            Sent::insert(subject, old.after()).redis(Fate::Ignored("too_old")),
            Sent::update(subject, old.after(), subject.after()),
        ];
        Case::applied(subject, sent)
    }),
    ("an update that changes only the duration", |subject| {
        let longer = with(subject.after(), json!({"duration_ms": 90_000}));
        let sent = vec![
            Sent::insert(subject, subject.after()),
            Sent::update(subject, subject.after(), longer),
        ];
        let case = Case::applied(subject, sent).counted(&[(subject.content, 90_000)]);
        case.row(json!({
            "duration_ms": 90_000, "engagement_seconds": "90", "engagement_pct": "0.9",
        }))
    }),
    ("an update with a value of the wrong type", |subject| {
        let after = with(subject.after(), json!({"duration_ms": "long"}));
        let value = subject.envelope("u", subject.after(), after);
        let dead = Sent::dead("bad_type", subject.record(&value)).redis(Fate::Applied);
        let insert = Sent::insert(subject, subject.after());
        Case::applied(subject, vec![insert, dead])
    }),
    ("space around a record and after it", |subject| {
        let value = subject.envelope("c", Json::Null, subject.after());
        let text = format!("\t\r\n {value:#} \n");
        let record = Record {
            value: Some(text.into_bytes()),
            ..subject.record(&value)
        };
        Case::applied(subject, vec![Sent::applied(record)])
    }),
    ("a byte order mark", |subject| {
        text(subject, "not_json", |value| format!("\u{feff}{value}"))
    }),
    ("two documents in one record", |subject| {
        text(subject, "not_json", |value| format!("{value}{value}"))
    }),
    ("half a surrogate pair", |subject| {
        text(subject, "not_json", |value| {
            value.replacen("ios", "\\ud83d", 1)
        })
        .with_board()
    }),
    ("a duplicate column", |subject| {
        text(subject, "duplicate_field", |value| {
            value.replacen("\"device\":", "\"device\":\"tv\",\"device\":", 1)
        })
        .with_board()
    }),
    (
        "a duplicate column in an old row that is needed",
        |subject| {
            let unavailable = json!({"device": "__debezium_unavailable_value"});
            let after = with(subject.after(), unavailable);
            let value = subject.envelope("u", subject.after(), after).to_string();
            let value = value.replacen("\"device\":", "\"device\":\"tv\",\"device\":", 1);
            let record = Record {
                value: Some(value.into_bytes()),
                ..subject.record(&Json::Null)
            };
            Case::no_effect(subject, vec![Sent::dead("duplicate_field", record)]).with_board()
        },
    ),
    ("an id with an exponent", |subject| {
        let id = format!("\"id\":{},", subject.id);
        text(subject, "bad_id", move |value| {
            value.replacen(&id, "\"id\":1e9,", 1)
        })
    }),
    ("an id that is a boolean", |subject| {
        dead_column(subject, "bad_id", json!({"id": true}))
    }),
    ("an id that is null", |subject| {
        dead_column(subject, "bad_id", json!({"id": null}))
    }),
    ("the smallest id", |subject| {
        Case::insert(&subject.with_id(i64::MIN), json!({}))
    }),
    ("the largest duration", |subject| {
        let row = json!({"engagement_seconds": "2147483.647", "engagement_pct": "21474.84"});
        let case = Case::insert(subject, json!({"duration_ms": i32::MAX})).row(row);
        case.counted(&[(subject.content, i32::MAX)])
    }),
    ("a duration beyond 32 bits", |subject| {
        dead_column(
            subject,
            "bad_type",
            json!({"duration_ms": 2_147_483_648_i64}),
        )
        .with_event_board()
    }),
    ("a duration with a fraction", |subject| {
        dead_column(subject, "bad_type", json!({"duration_ms": 1500.5})).with_event_board()
    }),
    ("a null time", |subject| {
        dead_column(subject, "unexpected_null", json!({"event_ts": null}))
    }),
    ("a time without a time zone", |subject| {
        dead_column(
            subject,
            "bad_timestamp",
            json!({"event_ts": "2026-11-23T10:00:00"}),
        )
    }),
    ("a time at negative infinity", |subject| {
        dead_column(subject, "bad_timestamp", json!({"event_ts": "-infinity"}))
    }),
    ("empty strings", |subject| {
        let empty = json!({"device": "", "event_type": "", "raw_payload": ""});
        Case::insert(subject, empty)
    }),
    ("an event_type that the table does not have", |subject| {
        Case::insert(subject, json!({"event_type": "rewind"}))
    }),
    ("a user_id that is not a uuid", |subject| {
        dead_column(subject, "bad_uuid", json!({"user_id": 7})).with_board()
    }),
    ("a key that is not an object", |subject| {
        let value = subject.envelope("c", Json::Null, subject.after());
        let record = Record {
            key: Some(b"7".to_vec()),
            ..subject.record(&value)
        };
        Case::no_effect(subject, vec![Sent::dead("bad_key", record)])
    }),
    ("a source without a table", |subject| {
        let mut value = subject.envelope("c", Json::Null, subject.after());
        value["source"] = with(value["source"].clone(), json!({"table": null}));
        Case::dead(subject, "missing_source", &value)
    }),
    (
        "a snapshot row of an event that was deleted and inserted again",
        |subject| {
            let mut read = subject.envelope("r", Json::Null, subject.after());
            let changes = json!({"snapshot": "incremental", "lsn": null});
            read["source"] = with(read["source"].clone(), changes);
            let read = Sent::applied(subject.record(&read));
            let sent = vec![
                Sent::insert(subject, with(subject.after(), json!({"device": "tv"}))),
                Sent::delete(subject, Json::Null),
                read.http(Fate::Ignored("incremental_snapshot")),
            ];
            Case::applied(subject, sent)
        },
    ),
];

/// Returns a case with an insert that has an invalid column.
fn dead_column(subject: &Subject, code: &'static str, column: Json) -> Case {
    Case::dead_insert(subject, code, with(subject.after(), column))
}

/// Returns a case with an insert whose text is made invalid by `change`.
fn text(subject: &Subject, code: &'static str, change: impl Fn(String) -> String) -> Case {
    let value = subject.envelope("c", Json::Null, subject.after());
    let record = Record {
        value: Some(change(value.to_string()).into_bytes()),
        ..subject.record(&value)
    };
    Case::no_effect(subject, vec![Sent::dead(code, record)])
}
