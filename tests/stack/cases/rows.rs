//! The columns: which values are stored unchanged, and which are rejected.

use serde_json::{Value as Json, json};

use super::case::{Case, Fate, Sent, Subject, record, with, without};

pub const CASES: &[(&str, fn(&Subject) -> Case)] = &[
    ("an added column", |subject| {
        let after = with(subject.after(), json!({"added": {"deep": [1]}}));
        let case = Case::applied(subject, vec![Sent::insert(subject, after)]);
        Case {
            has_extra_fields: true,
            ..case
        }
    }),
    ("a missing required column", |subject| {
        let after = without(subject.after(), "device");
        Case::dead_insert(subject, "missing_column", after).with_board()
    }),
    ("a missing id", |subject| {
        Case::dead_insert(subject, "missing_column", without(subject.after(), "id"))
    }),
    ("an id that is a string", |subject| {
        bad_id(subject, json!("1"))
    }),
    ("an id beyond 64 bits", |subject| {
        bad_id(subject, json!(9_223_372_036_854_775_808_u64))
    }),
    ("an id with a fraction", |subject| {
        bad_id(subject, json!(1.0))
    }),
    ("an id that is not the key's", |subject| {
        let after = with(subject.after(), json!({"id": subject.id + 5}));
        Case::dead_insert(subject, "key_mismatch", after)
    }),
    ("the id 0", |subject| {
        Case::insert(&subject.with_id(0), json!({}))
    }),
    ("a negative id", |subject| {
        Case::insert(&subject.with_id(-5), json!({}))
    }),
    ("the largest id", |subject| {
        Case::insert(&subject.with_id(i64::MAX), json!({}))
    }),
    ("a null duration", |subject| {
        let case = Case::insert(subject, json!({"duration_ms": null}));
        let case = case.row(json!({"engagement_seconds": null, "engagement_pct": null}));
        case.counted(&[(subject.content, 0)])
    }),
    ("a negative duration", |subject| {
        let case = Case::insert(subject, json!({"duration_ms": -1500}));
        let case = case.row(json!({"engagement_seconds": "-1.5", "engagement_pct": "-0.02"}));
        case.counted(&[(subject.content, -1500)])
    }),
    ("a content without a length", |subject| {
        let case = Case::insert(subject, json!({}));
        let case = case.catalogue(Some((Some("video"), None)));
        case.row(json!({"engagement_pct": null, "length_seconds": null}))
    }),
    ("a content of length 0", |subject| {
        let case = Case::insert(subject, json!({}));
        let case = case.catalogue(Some((Some("video"), Some(0))));
        case.row(json!({"engagement_pct": null, "length_seconds": 0}))
    }),
    ("an event without content", |subject| {
        let after = with(subject.after(), json!({"content_id": null}));
        let sent = Sent::insert(subject, after).redis(Fate::Ignored("no_content"));
        let case = Case::applied(subject, vec![sent]).counted(&[]);
        case.row(json!({"content_id": null}))
            .row(NOT_ENRICHED.parse().expect("json"))
    }),
    ("every nullable column is null", |subject| {
        let nulls = json!({
            "content_id": null, "user_id": null, "event_type": null, "duration_ms": null,
            "device": null, "raw_payload": null,
        });
        let after = with(subject.after(), nulls.clone());
        let sent = Sent::insert(subject, after).redis(Fate::Ignored("no_content"));
        let case = Case::applied(subject, vec![sent]).counted(&[]).row(nulls);
        let case = case.row(json!({"engagement_seconds": null}));
        case.row(NOT_ENRICHED.parse().expect("json"))
    }),
    ("a content_id that is not a uuid", |subject| {
        let after = with(subject.after(), json!({"content_id": "not-a-uuid"}));
        Case::dead_insert(subject, "bad_uuid", after)
    }),
    ("a time as a number with a unit in the schema", |subject| {
        let time = json!({"event_ts": subject.time.as_microsecond()});
        let value = subject.envelope("c", Json::Null, with(subject.after(), time));
        let column = json!({
            "type": "int64", "optional": false, "name": "io.debezium.time.MicroTimestamp",
            "version": 1, "field": "event_ts",
        });
        let row = json!({"type": "struct", "fields": [column], "field": "after"});
        let schema = json!({"type": "struct", "fields": [row]});
        let key = json!({"id": subject.id});
        let record = record(&key, &json!({"schema": schema, "payload": value}));
        Case::applied(subject, vec![Sent::applied(record)])
    }),
    ("a time as a number without a schema", |subject| {
        time(
            subject,
            "timestamp_unit_unknown",
            json!(subject.time.as_microsecond()),
        )
    }),
    ("a time at infinity", |subject| {
        time(subject, "bad_timestamp", json!("infinity"))
    }),
    ("a time in the year 20000", |subject| {
        time(
            subject,
            "bad_timestamp",
            json!("+20000-01-01T00:00:00.000000Z"),
        )
    }),
    ("a time an hour ahead of its record", |subject| {
        not_on_board(&subject.at(3600), "too_far_ahead")
    }),
    ("a time before the window", |subject| {
        not_on_board(&subject.at(-700), "too_old")
    }),
    (
        "a device with nul, right-to-left marks, emoji and terminal escapes",
        |subject| {
            let device = "a\u{0}b\u{202e}c\u{200f}🎧\u{1b}[31m\u{1b}]0;x\u{7}";
            Case::insert(subject, json!({"device": device}))
        },
    ),
    ("a device of a megabyte", |subject| {
        Case::insert(subject, json!({"device": "é".repeat(512 * 1024)}))
    }),
    ("a payload of ten megabytes", |subject| {
        let payload = format!("{{\"a\": \"{}\"}}", "x".repeat(10 * 1024 * 1024));
        Case::insert(subject, json!({"raw_payload": payload}))
    }),
    ("a payload that is the json null", |subject| {
        payload(subject, "null")
    }),
    ("a payload that is a scalar", |subject| {
        payload(subject, "42")
    }),
    ("a payload that is json in a json string", |subject| {
        payload(subject, r#""{\"a\": 1}""#)
    }),
    ("an unchanged value that the old row has", |subject| {
        let unavailable = json!({"raw_payload": UNAVAILABLE});
        let after = with(subject.after(), unavailable);
        let sent = Sent::update(subject, subject.after(), after);
        Case::applied(subject, vec![sent]).calls(0)
    }),
    ("an unchanged value that is not known", |subject| {
        let after = with(subject.after(), json!({"raw_payload": UNAVAILABLE}));
        let value = subject.envelope("u", Json::Null, after);
        Case::dead(subject, "unavailable_value", &value).with_board()
    }),
    ("an insert with the placeholder as text", |subject| {
        let texts = json!({"device": UNAVAILABLE, "raw_payload": UNAVAILABLE});
        Case::insert(subject, texts)
    }),
    (
        "an update of an event with the placeholder as text",
        |subject| {
            let text = json!({"device": UNAVAILABLE});
            let first = with(
                subject.after(),
                json!({"device": UNAVAILABLE, "user_id": null}),
            );
            let sent = vec![
                Sent::insert(subject, first.clone()),
                Sent::update(subject, first, with(subject.after(), text.clone())),
            ];
            Case::applied(subject, sent).row(text)
        },
    ),
    (
        "an update from null to the placeholder as text",
        |subject| {
            let text = json!({"device": UNAVAILABLE});
            let first = with(subject.after(), json!({"device": null}));
            let sent = vec![
                Sent::insert(subject, first.clone()),
                Sent::update(subject, first, with(subject.after(), text.clone())),
            ];
            Case::applied(subject, sent).row(text)
        },
    ),
];

const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The columns that come from the content, without a content.
const NOT_ENRICHED: &str =
    r#"{"engagement_pct": null, "content_type": null, "length_seconds": null}"#;

fn bad_id(subject: &Subject, id: Json) -> Case {
    Case::dead_insert(subject, "bad_id", with(subject.after(), json!({"id": id})))
}

fn time(subject: &Subject, code: &'static str, time: Json) -> Case {
    Case::dead_insert(
        subject,
        code,
        with(subject.after(), json!({"event_ts": time})),
    )
}

fn not_on_board(subject: &Subject, reason: &'static str) -> Case {
    let sent = Sent::insert(subject, subject.after()).redis(Fate::Ignored(reason));
    Case::applied(subject, vec![sent]).counted(&[])
}

fn payload(subject: &Subject, payload: &str) -> Case {
    Case::insert(subject, json!({"raw_payload": payload}))
}
