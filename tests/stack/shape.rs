//! Records that do not match the expected schema: a single record becomes a
//! dead letter, but many consecutive ones mean that the table has changed, and
//! halt the sinks that read the missing column.

use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Bench, Record, Stack, Topics, Worker, check_equal, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("bad_values_never_halt_a_sink", bad_values),
    (
        "a_missing_column_halts_the_sinks_that_read_it",
        missing_column,
    ),
    ("rows_without_their_envelope_halt_every_sink", flattened),
];

/// The number of consecutive mismatching records that halts a sink.
const HALT_AFTER_CONSECUTIVE: i64 = 20;

/// Returns the insert of an event with its value changed.
fn insert(bench: &Bench<'_>, id: i64, change: impl FnOnce(&mut Json)) -> Record {
    let record = Record::insert(bench.prefix(), id);
    let value = record.value.as_deref().expect("a value");
    let mut value: Json = serde_json::from_slice(value).expect("json");
    change(&mut value);
    Record {
        value: Some(value.to_string().into_bytes()),
        ..record
    }
}

fn without(bench: &Bench<'_>, id: i64, column: &str) -> Record {
    insert(bench, id, |value| {
        let row = value["after"].as_object_mut().expect("a row");
        row.remove(column).expect("the column exists");
    })
}

fn dead_letters(worker: &Worker, sink: &str) -> i64 {
    let codes = worker.sink(sink)["dead_letters"].clone();
    let counts = codes.as_object().expect("counts").values();
    counts.filter_map(Json::as_i64).sum()
}

/// Waits until a sink has processed all records, with this number of dead
/// letters.
fn wait_until_done(worker: &Worker, sink: &str, expected: i64) {
    eventually(
        &format!("{sink} has processed all records with {expected} dead letters"),
        || {
            let status = worker.sink(sink);
            let is_done = status["state"] == "running" && status["lag"] == 0;
            let count = dead_letters(worker, sink);
            (is_done && count == expected)
                .then_some(())
                .ok_or_else(|| format!("{count}: {status:#}"))
        },
    );
}

fn wait_for_halt(worker: &Worker, sink: &str) -> Json {
    eventually(&format!("{sink} halts"), || {
        let status = worker.sink(sink);
        let halted = status["state"] == "halted" && status["halt"]["code"] == "schema_changed";
        halted
            .then(|| status["halt"].clone())
            .ok_or_else(|| status.to_string())
    })
}

/// Invalid values become dead letters, however many there are. Above a certain
/// rate the sink is degraded.
fn bad_values(stack: &Stack) {
    let bench = Bench::new(stack, "badvalues");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    for id in 0..70 {
        let record = match id % 3 {
            0 => Record::undecodable(),
            1 => insert(&bench, id, |value| {
                value["after"]["event_ts"] = json!("infinity");
            }),
            _ => insert(&bench, id, |value| {
                value["after"]["duration_ms"] = json!(3_000_000_000_i64);
            }),
        };
        bench.write_event(0, &record);
    }
    wait_until_done(&worker, "clickhouse", 70);
    let degradation = worker.sink("clickhouse")["caution"].clone();
    assert_eq!(degradation["code"], "many_dead_letters", "{degradation:#}");
    worker.stop();
}

/// Only consecutive mismatches halt a sink, before the first of them. The other
/// sinks keep running.
fn missing_column(stack: &Stack) {
    let bench = Bench::new(stack, "goneshape");
    let worker = bench.run(&[]);
    let mut id = 0;
    let mut write = |count: i64, column: Option<&str>| {
        let mut first = None;
        for _ in 0..count {
            id += 1;
            let record = match column {
                Some(column) => without(&bench, id, column),
                None => Record::insert(bench.prefix(), id),
            };
            first.get_or_insert(bench.write_event(0, &record).offset);
        }
        first.expect("at least one")
    };
    write(1, None);
    write(HALT_AFTER_CONSECUTIVE - 1, Some("device"));
    write(1, None);
    for sink in ["clickhouse", "http"] {
        wait_until_done(&worker, sink, HALT_AFTER_CONSECUTIVE - 1);
    }
    wait_until_done(&worker, "redis", 0);
    let first = write(HALT_AFTER_CONSECUTIVE + 5, Some("device"));
    for sink in ["clickhouse", "http"] {
        let halt = wait_for_halt(&worker, sink);
        let reason = halt["reason"].as_str().expect("a reason");
        assert!(reason.contains("column device is missing"), "{reason}");
        let remedy = halt["remedy"].as_str().expect("a remedy");
        assert!(
            remedy.starts_with("fanout backfill --from earliest"),
            "{remedy}"
        );
        // The commit is before the end of the batch that halted the sink.
        let committed = Topics::new(stack).commits(&bench.group(sink), &bench.events_topic());
        let committed = committed[0].0;
        assert!(
            (first..first + HALT_AFTER_CONSECUTIVE).contains(&committed),
            "{committed}"
        );
        assert_eq!(
            dead_letters(&worker, sink),
            HALT_AFTER_CONSECUTIVE - 1 + committed - first
        );
    }
    wait_until_done(&worker, "redis", 0);
    worker.assert_unhealthy();
    // A missing column that the board reads halts the board as well.
    write(HALT_AFTER_CONSECUTIVE + 5, Some("event_ts"));
    wait_for_halt(&worker, "redis");
    worker.stop();
    // A restart neither clears the halt nor dead-letters the remaining records.
    let listed_dead_letters = |sink: &str| {
        let listed = bench.fanout().document(0, &["dlq", "ls", "--sink", sink]);
        listed["counts"][0]["letters"].as_i64().unwrap_or(0)
    };
    let before = listed_dead_letters("http");
    let worker = Worker::start(stack, bench.fanout(), &[]);
    for sink in ["clickhouse", "http", "redis"] {
        wait_for_halt(&worker, sink);
    }
    check_equal(&before, listed_dead_letters("http")).expect("no more dead letters");
    worker.stop();
}

/// A transform removes the envelope of every record.
fn flattened(stack: &Stack) {
    let bench = Bench::new(stack, "flattened");
    let worker = bench.run(&[]);
    for id in 0..HALT_AFTER_CONSECUTIVE + 5 {
        bench.write_event(
            0,
            &insert(&bench, id, |value| *value = value["after"].take()),
        );
    }
    for sink in ["clickhouse", "http", "redis"] {
        let halt = wait_for_halt(&worker, sink);
        let remedy = halt["remedy"].as_str().expect("a remedy");
        assert!(
            remedy.starts_with("remove the connector's transform"),
            "{remedy}"
        );
    }
    worker.stop();
}
