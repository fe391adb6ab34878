//! Several records of one event, and changes of its content before and after
//! it.

use serde_json::{Value as Json, json};

use super::case::{Case, Fate, Sent, Subject, VIDEO, with};

pub const CASES: &[(&str, fn(&Subject) -> Case)] = &[
    ("the same event three times", |subject| {
        let insert = Sent::insert(subject, subject.after());
        Case::applied(subject, vec![insert.clone(), insert.clone(), insert])
    }),
    ("a delete, then an insert of the same id", |subject| {
        let first = with(subject.after(), json!({"device": "tv"}));
        let sent = vec![
            Sent::insert(subject, first.clone()),
            Sent::delete(subject, first),
            Sent::tombstone(subject),
            Sent::insert(subject, subject.after()),
        ];
        Case::applied(subject, sent).calls(2)
    }),
    ("two updates in one transaction", |subject| {
        let first = with(subject.after(), json!({"device": "first"}));
        let second = with(subject.after(), json!({"device": "second"}));
        let sent = vec![
            Sent::insert(subject, subject.after()),
            Sent::update(subject, subject.after(), first.clone()),
            Sent::update(subject, first, second),
        ];
        Case::applied(subject, sent).row(json!({"device": "second"}))
    }),
    (
        "an incremental snapshot of an event already seen",
        |subject| {
            let mut value = subject.envelope("r", Json::Null, subject.after());
            let changes = json!({"snapshot": "incremental", "lsn": null, "txId": null});
            value["source"] = with(value["source"].clone(), changes);
            let read = Sent::applied(subject.record(&value));
            let read = read.http(Fate::Ignored("incremental_snapshot"));
            let insert = Sent::insert(subject, subject.after());
            Case::applied(subject, vec![insert, read])
        },
    ),
    (
        "an update that moves an event to other content",
        |subject| {
            let moved = with(subject.after(), json!({"content_id": subject.other}));
            let sent = vec![
                Sent::insert(subject, subject.after()),
                Sent::update(subject, subject.after(), moved),
            ];
            let mut case = Case::applied(subject, sent).counted(&[(subject.other, 1500)]);
            case.catalogue
                .push((subject.other, (Some("podcast"), Some(200))));
            case.row(json!({
                "content_id": subject.other, "engagement_pct": "0.01", "content_type": "podcast",
                "length_seconds": 200,
            }))
        },
    ),
    ("an event before its content", |subject| {
        let nulls = json!({"engagement_pct": null, "content_type": null, "length_seconds": null});
        let enriched = json!({
            "engagement_pct": "0.02", "content_type": "video", "length_seconds": 100,
        });
        let case = Case::insert(subject, json!({})).catalogue(None).row(nulls);
        case.later(VIDEO, enriched)
    }),
    ("content changed after its event", |subject| {
        // 1.5 s of 12 s are 0.125, which is rounded up.
        let columns = json!({
            "engagement_pct": "0.13", "content_type": null, "length_seconds": 12,
        });
        Case::insert(subject, json!({})).later((None, Some(12)), columns)
    }),
];
