//! Every kind of record that has to be survived, written into a running topic
//! with good neighbours on both sides: what becomes of each in every store, and
//! that none holds up another.
//!
//! The pipeline here is of a project of its own on the stack's servers, so
//! nothing of this is in the source.

pub mod case;
mod envelopes;
mod events;
mod neighbours;
mod rows;

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use self::case::{Case, Fate, GOOD, SINKS, Sent, Subject, content};
use crate::{
    Test,
    support::{Bench, Record, Stack, Written, eventually, records, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("each_record_becomes_what_it_should", each_record),
    ("a_run_told_to_stop_finishes_what_it_has", told_to_stop),
];

/// Partitions of the events' topic.
const PARTITIONS: i32 = 3;

/// A record and where it was written.
type Placed = (Sent, Written);

fn each_record(stack: &Stack) {
    let bench = Bench::new(stack, "cases");
    let worker = bench.run(&[]);
    let cases = cases();
    let placed = write(&bench, &cases);
    for sink in SINKS {
        let fates = placed.iter().map(|(sent, _)| sent.fate(sink));
        let expected = tally(
            fates,
            cases.iter().filter(|case| case.has_extra_fields).count(),
        );
        eventually(&format!("{sink} accounts for each record"), || {
            same(&expected, counts(&worker.sink(sink)))
                .map_err(|error| format!("{error}\n{:#}\n{}", worker.status(), worker.said()))
        });
    }
    rows_are(
        &bench,
        cases
            .iter()
            .map(|case| (case.name, case.id, case.row.clone())),
    );
    eventually("every good neighbour is stored", || {
        let rows = bench.rows(&format!("content_id = '{GOOD}'"));
        same(&(2 * cases.len()), rows.len())
    });
    scores_are(&bench, "top10m:cases", &cases, Score::Events);
    calls_are(&bench, &cases);
    letters_are(&bench, &placed);
    shown_is_harmless(&bench);

    // The seconds of the same events.
    let seconds = bench.seconds();
    scores_are(&bench, "seconds", &cases, Score::Seconds);
    seconds.stop();

    // Content that comes, or changes, after its events.
    let later = cases
        .iter()
        .filter_map(|case| case.later.as_ref().map(|later| (case, later)));
    let rows = later.map(|(case, later)| {
        bench.content(&content(bench.prefix(), case.content, later.content));
        (case.name, case.id, Some(later.row.clone()))
    });
    let rows: Vec<_> = rows.collect();
    rows_are(&bench, rows);
    worker.stop();

    // What is committed is not done again.
    let again = bench.run(&[]);
    for sink in SINKS {
        eventually(&format!("{sink} has nothing to do"), || {
            let status = again.sink(sink);
            let idle = status["lag"] == 0 && status["state"] == "running";
            idle.then_some(()).ok_or_else(|| status.to_string())
        });
    }
    letters_are(&bench, &placed);
    calls_are(&bench, &cases);
}

/// A worker that is told to stop in the middle of a load ends with 0; another
/// finds the rest, and nothing is missing or doubled.
fn told_to_stop(stack: &Stack) {
    let bench = Bench::new(stack, "stopped");
    let worker = bench.run(&[]);
    let events: Vec<Case> = (0..300)
        .map(|number| {
            Case::of("an event", Subject::new("cdc-stopped", number), |subject| {
                Case::applied(subject, vec![Sent::insert(subject, subject.after())])
            })
        })
        .collect();
    let (first, second) = events.split_at(events.len() / 2);
    write(&bench, first);
    eventually("rows arrive", || {
        let rows = bench.rows("1");
        (!rows.is_empty())
            .then_some(())
            .ok_or_else(|| worker.said())
    });
    // Slow enough that there is something in flight, whatever the machine.
    bench.faults("delay_ms=300");
    write(&bench, second);
    let http = worker.sink("http");
    let calls: usize = events.iter().map(|event| event.calls.len()).sum();
    assert_ne!(http["applied"], calls, "{http:#}");
    let report = worker.stop();
    bench.faults("");
    assert_eq!(report["drained"], true, "{report:#}");
    let _worker = bench.run(&[]);
    rows_are(
        &bench,
        events
            .iter()
            .map(|case| (case.name, case.id, case.row.clone())),
    );
    scores_are(&bench, "top10m:stopped", &events, Score::Events);
    calls_are(&bench, &events);
}

/// The whole table, each case with a subject of its own.
fn cases() -> Vec<Case> {
    let tables = [
        envelopes::CASES,
        events::CASES,
        rows::CASES,
        neighbours::CASES,
    ];
    let named = tables.into_iter().flatten();
    let case = |(number, (name, build)): (i64, &(&'static str, fn(&Subject) -> Case))| {
        Case::of(name, Subject::new("cdc-cases", number), build)
    };
    (0..).zip(named).map(case).collect()
}

/// Writes the catalogue, then each case between two good neighbours, all in one
/// partition.
fn write(bench: &Bench<'_>, cases: &[Case]) -> Vec<Placed> {
    for (id, fields) in cases.iter().flat_map(|case| &case.catalogue) {
        bench.content(&content(bench.prefix(), *id, *fields));
    }
    let mut placed = Vec::new();
    for (case, partition) in cases.iter().zip((0..PARTITIONS).cycle()) {
        for sent in &case.sent {
            placed.push((sent.clone(), bench.event(partition, &sent.record)));
        }
    }
    placed
}

/// What a sink's status has to count.
fn tally(fates: impl Iterator<Item = Fate>, extra_fields: usize) -> Json {
    let (mut applied, mut ignored, mut dead) = (0, BTreeMap::new(), BTreeMap::new());
    for fate in fates {
        match fate {
            Fate::Applied => applied += 1,
            Fate::Ignored(reason) => *ignored.entry(reason).or_insert(0) += 1,
            Fate::Dead(code) => *dead.entry(code).or_insert(0) += 1,
        }
    }
    json!({
        "applied": applied, "ignored": ignored, "dead_letters": dead,
        "extra_fields": extra_fields, "lag": 0, "halt": null,
    })
}

/// What it counts.
fn counts(status: &Json) -> Json {
    let names = [
        "applied",
        "ignored",
        "dead_letters",
        "extra_fields",
        "lag",
        "halt",
    ];
    let fields = names.map(|name| (name.to_owned(), status[name].clone()));
    Json::Object(fields.into_iter().collect())
}

/// Waits until each of these events has its row, or none.
fn rows_are(
    bench: &Bench<'_>,
    expected: impl IntoIterator<Item = (&'static str, i64, Option<Json>)>,
) {
    let expected: Vec<_> = expected.into_iter().collect();
    let ids: Vec<String> = expected.iter().map(|(_, id, _)| id.to_string()).collect();
    eventually("the rows are as they should be", || {
        let rows = bench.rows(&format!("event_id IN ({})", ids.join(", ")));
        let row = |id: i64| rows.iter().find(|row| row["event_id"] == id).cloned();
        let wrong = expected.iter().filter_map(|(name, id, expected)| {
            let found = row(*id);
            let shown = |row: &Option<Json>| {
                let text = row.as_ref().map_or("none".to_owned(), Json::to_string);
                text.chars().take(600).collect::<String>()
            };
            let same = found == *expected;
            (!same).then(|| {
                format!(
                    "{name}\n  expected {}\n  found    {}",
                    shown(expected),
                    shown(&found)
                )
            })
        });
        let wrong: Vec<String> = wrong.collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(first(&wrong))
        }
    });
}

/// The first of many, for a failure that can be read.
fn first(wrong: &[String]) -> String {
    let shown = &wrong[..wrong.len().min(5)];
    format!("{} are not, the first:\n{}", wrong.len(), shown.join("\n"))
}

/// What a board counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Score {
    Events,
    Seconds,
}

/// Waits until the board is made of these events and no others.
fn scores_are(bench: &Bench<'_>, key: &str, cases: &[Case], score: Score) {
    let mut sums: BTreeMap<Uuid, (i64, i64)> = BTreeMap::new();
    for case in cases {
        let only_events = case.without_duration.iter().map(|content| (*content, 0));
        let only_events = only_events.filter(|_| score == Score::Events);
        for (content, duration_ms) in case.counted.iter().copied().chain(only_events) {
            let sum = sums.entry(content).or_default();
            *sum = (sum.0 + 1, sum.1 + i64::from(duration_ms).max(0));
        }
    }
    let member = |(content, (events, ms)): (Uuid, (i64, i64))| {
        let score = match score {
            Score::Events => events,
            Score::Seconds => ms / 1000,
        };
        (content.to_string(), score)
    };
    let expected: BTreeMap<String, i64> = sums.into_iter().map(member).collect();
    eventually(&format!("{key} is as it should be"), || {
        let board = bench.stack().stores.board(key)?;
        let wrong = |content: &&String| expected.get(*content) != board.get(*content);
        let wrong: Vec<String> = expected
            .keys()
            .chain(board.keys())
            .filter(wrong)
            .map(|content| {
                let case = cases
                    .iter()
                    .find(|case| case.content.to_string() == *content);
                let name = case.map_or("of several", |case| case.name);
                format!(
                    "{name}: {content} {:?} {:?}",
                    expected.get(content),
                    board.get(content)
                )
            })
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(first(&wrong))
        }
    });
}

/// The external system was told of each insert once.
fn calls_are(bench: &Bench<'_>, cases: &[Case]) {
    let expected = cases.iter().flat_map(|case| &case.calls);
    let mut expected: Vec<i64> = expected.copied().collect();
    expected.sort_unstable();
    eventually("the calls are as they should be", || {
        let accepted = bench.accepted();
        let id = |call: &Json| call["body"]["id"].as_i64().expect("an id");
        let mut found: Vec<i64> = accepted.iter().map(id).collect();
        found.sort_unstable();
        same(&expected, found)
    });
}

/// The dead letters are these and no others, with the records' own bytes.
fn letters_are(bench: &Bench<'_>, placed: &[Placed]) {
    let text = |bytes: &Option<Vec<u8>>| {
        bytes
            .as_ref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let mut expected = Vec::new();
    for (sent, written) in placed {
        for sink in SINKS {
            if let Fate::Dead(code) = sent.fate(sink) {
                expected.push(json!({
                    "sink": sink, "code": code, "topic": bench.events_topic(),
                    "partition": written.partition, "offset": written.offset,
                    "key": text(&sent.record.key), "value": text(&sent.record.value),
                }));
            }
        }
    }
    expected.sort_by_key(Json::to_string);
    let document = bench
        .fanout()
        .document(0, &["dlq", "ls", "--limit", "100000"]);
    let letters = document["letters"].as_array().expect("letters");
    let names = [
        "sink",
        "code",
        "topic",
        "partition",
        "offset",
        "key",
        "value",
    ];
    let fields = |letter: &Json| {
        let fields = names.map(|name| (name.to_owned(), letter[name].clone()));
        Json::Object(fields.into_iter().collect())
    };
    let mut found: Vec<Json> = letters.iter().map(fields).collect();
    found.sort_by_key(Json::to_string);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected.len(), found.len(), "{document:#}");
    let mut expected: Vec<Record> = placed
        .iter()
        .flat_map(|(sent, _)| SINKS.map(|sink| (sent, sink)))
        .filter(|(sent, sink)| matches!(sent.fate(sink), Fate::Dead(_)))
        .map(|(sent, _)| sent.record.clone())
        .collect();
    let mut found = records(bench.stack(), &bench.letters_topic());
    expected.sort();
    found.sort();
    assert!(expected == found, "a dead letter has other bytes");
    if let Some(letter) = letters.first() {
        let id = letter["id"].as_str().expect("an id");
        let shown = bench.fanout().document(0, &["dlq", "show", id]);
        assert_eq!(&shown["letter"], letter);
    }
}

/// What came from outside does nothing to a terminal.
fn shown_is_harmless(bench: &Bench<'_>) {
    for arguments in [
        &["peek", "clickhouse", "-n", "1000"][..],
        &["peek", "http", "-n", "1000"],
        &["peek", "kafka", "-n", "1000"],
        &["dlq", "ls", "--limit", "1000"],
    ] {
        let shown = bench.fanout().run(arguments).ends_with(0).stdout;
        assert!(!shown.is_empty(), "{arguments:?}");
        let acts = |character: &char| {
            (character.is_control() && *character != '\n')
                || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        };
        assert_eq!(shown.chars().find(acts), None, "{arguments:?}");
    }
}
