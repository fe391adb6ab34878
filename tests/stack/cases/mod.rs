//! Writes every kind of record into a running topic, between valid neighbours,
//! and checks its effect in every store. No record may hold up another.
//!
//! The pipeline belongs to a separate project on the stack's servers, so the
//! source has none of these records.

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
    support::{Bench, Record, Stack, Written, check_equal, eventually, records},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("each_record_has_the_expected_effect", each_record),
    ("a_stopped_run_finishes_its_current_work", stopped_run),
];

/// Number of partitions of the events topic.
const PARTITIONS: i32 = 3;

/// A record and the position it was written to.
type Placed = (Sent, Written);

fn each_record(stack: &Stack) {
    let bench = Bench::new(stack, "cases");
    let worker = bench.run(&[]);
    let cases = cases();
    let placed = write(&bench, &cases);
    for sink in SINKS {
        let fates = placed.iter().map(|(sent, _)| sent.fate(sink));
        let expected = expected_counts(
            fates,
            cases.iter().filter(|case| case.has_extra_fields).count(),
        );
        eventually(&format!("{sink} accounts for each record"), || {
            check_equal(&expected, counts(&worker.sink(sink)))
                .map_err(|error| format!("{error}\n{:#}\n{}", worker.status(), worker.log_tail()))
        });
    }
    wait_for_rows(
        &bench,
        cases
            .iter()
            .map(|case| (case.name, case.id, case.row.clone())),
    );
    eventually("every good neighbour is stored", || {
        let rows = bench.rows(&format!("content_id = '{GOOD}'"));
        check_equal(&(2 * cases.len()), rows.len())
    });
    wait_for_scores(&bench, "top10m:cases", &cases, Score::Events);
    wait_for_calls(&bench, &cases);
    assert_dead_letters(&bench, &placed);
    assert_output_is_harmless(&bench);

    // A board of seconds for the same events.
    let seconds = bench.run_seconds_board();
    wait_for_scores(&bench, "seconds", &cases, Score::Seconds);
    seconds.stop();

    // Content that arrives or changes after its events.
    let later = cases
        .iter()
        .filter_map(|case| case.later.as_ref().map(|later| (case, later)));
    let rows = later.map(|(case, later)| {
        bench.write_content(&content(bench.prefix(), case.content, later.content));
        (case.name, case.id, Some(later.row.clone()))
    });
    let rows: Vec<_> = rows.collect();
    wait_for_rows(&bench, rows);
    worker.stop();

    // Committed records are not processed again.
    let restarted = bench.run(&[]);
    for sink in SINKS {
        eventually(&format!("{sink} has nothing to do"), || {
            let status = restarted.sink(sink);
            let is_idle = status["lag"] == 0 && status["state"] == "running";
            is_idle.then_some(()).ok_or_else(|| status.to_string())
        });
    }
    assert_dead_letters(&bench, &placed);
    wait_for_calls(&bench, &cases);
}

/// A worker that is stopped under load exits with 0. The next worker processes
/// the rest, and nothing is missing or duplicated.
fn stopped_run(stack: &Stack) {
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
            .ok_or_else(|| worker.log_tail())
    });
    // Slow calls ensure that some are in flight, even on a fast machine.
    bench.inject_faults("delay_ms=300");
    write(&bench, second);
    let http = worker.sink("http");
    let calls: usize = events.iter().map(|event| event.calls.len()).sum();
    assert_ne!(http["applied"], calls, "{http:#}");
    let report = worker.stop();
    bench.inject_faults("");
    assert_eq!(report["drained"], true, "{report:#}");
    let _worker = bench.run(&[]);
    wait_for_rows(
        &bench,
        events
            .iter()
            .map(|case| (case.name, case.id, case.row.clone())),
    );
    wait_for_scores(&bench, "top10m:stopped", &events, Score::Events);
    wait_for_calls(&bench, &events);
}

/// Returns all cases, each with its own subject.
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

/// Writes the catalogue, and each case between two valid neighbours in one
/// partition.
fn write(bench: &Bench<'_>, cases: &[Case]) -> Vec<Placed> {
    for (id, fields) in cases.iter().flat_map(|case| &case.catalogue) {
        bench.write_content(&content(bench.prefix(), *id, *fields));
    }
    let mut placed = Vec::new();
    for (case, partition) in cases.iter().zip((0..PARTITIONS).cycle()) {
        for sent in &case.sent {
            placed.push((sent.clone(), bench.write_event(partition, &sent.record)));
        }
    }
    placed
}

/// Returns the counts that a sink's status must report.
fn expected_counts(fates: impl Iterator<Item = Fate>, extra_fields: usize) -> Json {
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

/// Returns the counts that a sink's status reports.
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

/// Waits until each of these events has the expected row, or no row.
fn wait_for_rows(
    bench: &Bench<'_>,
    expected: impl IntoIterator<Item = (&'static str, i64, Option<Json>)>,
) {
    let expected: Vec<_> = expected.into_iter().collect();
    let ids: Vec<String> = expected.iter().map(|(_, id, _)| id.to_string()).collect();
    eventually("the rows are as expected", || {
        let rows = bench.rows(&format!("event_id IN ({})", ids.join(", ")));
        let row = |id: i64| rows.iter().find(|row| row["event_id"] == id).cloned();
        let mismatches = expected.iter().filter_map(|(name, id, expected)| {
            let found = row(*id);
            let shown = |row: &Option<Json>| {
                let text = row.as_ref().map_or("none".to_owned(), Json::to_string);
                text.chars().take(600).collect::<String>()
            };
            let is_equal = found == *expected;
            (!is_equal).then(|| {
                format!(
                    "{name}\n  expected {}\n  found    {}",
                    shown(expected),
                    shown(&found)
                )
            })
        });
        let mismatches: Vec<String> = mismatches.collect();
        if mismatches.is_empty() {
            Ok(())
        } else {
            Err(summarize(&mismatches))
        }
    });
}

/// Summarizes the mismatches and shows the first five.
fn summarize(mismatches: &[String]) -> String {
    let shown = &mismatches[..mismatches.len().min(5)];
    format!(
        "{} mismatches, the first:\n{}",
        mismatches.len(),
        shown.join("\n")
    )
}

/// The score of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Score {
    Events,
    Seconds,
}

/// Waits until the board has exactly the scores of these events.
fn wait_for_scores(bench: &Bench<'_>, key: &str, cases: &[Case], score: Score) {
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
    eventually(&format!("{key} has the expected scores"), || {
        let board = bench.stack().stores.board(key)?;
        let is_mismatch = |content: &&String| expected.get(*content) != board.get(*content);
        let mismatches: Vec<String> = expected
            .keys()
            .chain(board.keys())
            .filter(is_mismatch)
            .map(|content| {
                let case = cases
                    .iter()
                    .find(|case| case.content.to_string() == *content);
                let name = case.map_or("several cases", |case| case.name);
                format!(
                    "{name}: {content} {:?} {:?}",
                    expected.get(content),
                    board.get(content)
                )
            })
            .collect();
        if mismatches.is_empty() {
            Ok(())
        } else {
            Err(summarize(&mismatches))
        }
    });
}

/// Waits until the external system has received exactly one call for each
/// insert.
fn wait_for_calls(bench: &Bench<'_>, cases: &[Case]) {
    let expected = cases.iter().flat_map(|case| &case.calls);
    let mut expected: Vec<i64> = expected.copied().collect();
    expected.sort_unstable();
    eventually("the calls are as expected", || {
        let accepted = bench.accepted();
        let id = |call: &Json| call["body"]["id"].as_i64().expect("an id");
        let mut found: Vec<i64> = accepted.iter().map(id).collect();
        found.sort_unstable();
        check_equal(&expected, found)
    });
}

/// Asserts that the dead letters are exactly these, with the original bytes.
fn assert_dead_letters(bench: &Bench<'_>, placed: &[Placed]) {
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
    let dead_letters = document["letters"].as_array().expect("letters");
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
    let mut found: Vec<Json> = dead_letters.iter().map(fields).collect();
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
    let mut found = records(bench.stack(), &bench.dead_letter_topic());
    expected.sort();
    found.sort();
    assert!(expected == found, "a dead letter has other bytes");
    if let Some(letter) = dead_letters.first() {
        let id = letter["id"].as_str().expect("an id");
        let shown = bench.fanout().document(0, &["dlq", "show", id]);
        assert_eq!(&shown["letter"], letter);
    }
}

/// Asserts that no shown data can control a terminal.
fn assert_output_is_harmless(bench: &Bench<'_>) {
    for arguments in [
        &["peek", "clickhouse", "-n", "1000"][..],
        &["peek", "http", "-n", "1000"],
        &["peek", "kafka", "-n", "1000"],
        &["dlq", "ls", "--limit", "1000"],
    ] {
        let shown = bench.fanout().run(arguments).ends_with(0).stdout;
        assert!(!shown.is_empty(), "{arguments:?}");
        let is_control = |character: &char| {
            (character.is_control() && *character != '\n')
                || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        };
        assert_eq!(shown.chars().find(is_control), None, "{arguments:?}");
    }
}
