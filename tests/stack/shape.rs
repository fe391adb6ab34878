//! Records that are not of the expected shape: one is a dead letter, many in a
//! row say that the table has changed, and halt those who read what is missing.

use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Bench, Record, Stack, Topics, Worker, eventually, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("bad_values_never_halt_a_sink", bad_values),
    ("a_column_that_is_gone_halts_those_who_read_it", gone_column),
    ("rows_without_their_envelope_halt_every_sink", flattened),
];

/// So many in a row halt a sink.
const IN_A_ROW: i64 = 20;

/// The insert of an event with its row changed.
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
        row.remove(column).expect("it was there");
    })
}

fn dead(worker: &Worker, sink: &str) -> i64 {
    let letters = worker.sink(sink)["dead_letters"].clone();
    let counts = letters.as_object().expect("counts").values();
    counts.filter_map(Json::as_i64).sum()
}

/// Waits until a sink is through, with so many dead letters.
fn goes_on(worker: &Worker, sink: &str, letters: i64) {
    eventually(
        &format!("{sink} goes on with {letters} dead letters"),
        || {
            let status = worker.sink(sink);
            let through = status["state"] == "running" && status["lag"] == 0;
            let count = dead(worker, sink);
            (through && count == letters)
                .then_some(())
                .ok_or_else(|| format!("{count}: {status:#}"))
        },
    );
}

fn halts(worker: &Worker, sink: &str) -> Json {
    eventually(&format!("{sink} halts"), || {
        let status = worker.sink(sink);
        let halted = status["state"] == "halted" && status["halt"]["code"] == "schema_changed";
        halted
            .then(|| status["halt"].clone())
            .ok_or_else(|| status.to_string())
    })
}

/// However many: they are dead letters, and above a rate a warning.
fn bad_values(stack: &Stack) {
    let bench = Bench::new(stack, "badvalues");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    for id in 0..70 {
        let record = match id % 3 {
            0 => Record::garbage(),
            1 => insert(&bench, id, |value| {
                value["after"]["event_ts"] = json!("infinity");
            }),
            _ => insert(&bench, id, |value| {
                value["after"]["duration_ms"] = json!(3_000_000_000_i64);
            }),
        };
        bench.event(0, &record);
    }
    goes_on(&worker, "clickhouse", 70);
    let caution = worker.sink("clickhouse")["caution"].clone();
    assert_eq!(caution["code"], "many_dead_letters", "{caution:#}");
    worker.stop();
}

/// Only a row of them halts, before its first record; the others go on.
fn gone_column(stack: &Stack) {
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
            first.get_or_insert(bench.event(0, &record).offset);
        }
        first.expect("at least one")
    };
    write(1, None);
    write(IN_A_ROW - 1, Some("device"));
    write(1, None);
    for sink in ["clickhouse", "http"] {
        goes_on(&worker, sink, IN_A_ROW - 1);
    }
    goes_on(&worker, "redis", 0);
    let first = write(IN_A_ROW + 5, Some("device"));
    for sink in ["clickhouse", "http"] {
        let halt = halts(&worker, sink);
        let reason = halt["reason"].as_str().expect("a reason");
        assert!(reason.contains("column device is missing"), "{reason}");
        let remedy = halt["remedy"].as_str().expect("a remedy");
        assert!(
            remedy.starts_with("fanout backfill --from earliest"),
            "{remedy}"
        );
        // Up to the first of those that came together, and never past it.
        let committed = Topics::of(stack).commits(&bench.group(sink), &bench.events_topic());
        let committed = committed[0].0;
        assert!(
            (first..first + IN_A_ROW).contains(&committed),
            "{committed}"
        );
        assert_eq!(dead(&worker, sink), IN_A_ROW - 1 + committed - first);
    }
    goes_on(&worker, "redis", 0);
    worker.is_unhealthy();
    // What the board reads halts it as well.
    write(IN_A_ROW + 5, Some("event_ts"));
    halts(&worker, "redis");
    worker.stop();
    // It is not forgotten by a restart, nor dead-lettered bit by bit.
    let letters = |sink: &str| {
        let listed = bench.fanout().document(0, &["dlq", "ls", "--sink", sink]);
        listed["counts"][0]["letters"].as_i64().unwrap_or(0)
    };
    let before = letters("http");
    let worker = Worker::start(stack, bench.fanout(), &[]);
    for sink in ["clickhouse", "http", "redis"] {
        halts(&worker, sink);
    }
    same(&before, letters("http")).expect("no more dead letters");
    worker.stop();
}

/// What a transform leaves of every record.
fn flattened(stack: &Stack) {
    let bench = Bench::new(stack, "flattened");
    let worker = bench.run(&[]);
    for id in 0..IN_A_ROW + 5 {
        bench.event(
            0,
            &insert(&bench, id, |value| *value = value["after"].take()),
        );
    }
    for sink in ["clickhouse", "http", "redis"] {
        let halt = halts(&worker, sink);
        let remedy = halt["remedy"].as_str().expect("a remedy");
        assert!(
            remedy.starts_with("remove the connector's transform"),
            "{remedy}"
        );
    }
    worker.stop();
}
