//! The record of generations: taken over from where earlier releases kept it,
//! shared by every set of sinks, and missed where it is lost. No number is used
//! twice, so no row is ever older than it should be.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Stack, Topics, Worker, eventually, records, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("what_an_earlier_release_recorded_is_taken_over", earlier),
    ("a_record_that_was_lost_halts_the_sink", lost),
    ("a_sink_that_is_added_goes_on_from_the_record", added),
    (
        "a_topic_recreated_before_a_sink_is_added_is_noticed",
        recreated,
    ),
];

const NUMBER: &str = "generation/1";
const TABLE: &str = "generation/1/table/clickhouse";

/// What the state topic has under the keys of generations.
fn recorded(bench: &Bench<'_>) -> BTreeMap<String, Json> {
    let mut values = BTreeMap::new();
    for record in records(bench.stack(), bench.state_topic()) {
        let key = String::from_utf8(record.key.expect("a key")).expect("text");
        if !key.starts_with("generation/") {
            continue;
        }
        match record.value {
            Some(value) => {
                let value = serde_json::from_slice(&value).expect("json");
                values.insert(key, value);
            }
            None => {
                values.remove(&key);
            }
        }
    }
    values
}

/// Each event with its version.
fn versions(bench: &Bench<'_>) -> String {
    bench.clickhouse(
        "SELECT event_id, toString(_version) FROM {db}.engagement_enriched_storage FINAL \
         ORDER BY event_id FORMAT TSV",
    )
}

fn stores(bench: &Bench<'_>, count: usize) {
    eventually("the rows are there", || same(&count, bench.rows("1").len()));
}

/// Waits until the sink has committed all there is.
fn commits(bench: &Bench<'_>) {
    let (topics, topic) = (Topics::of(bench.stack()), bench.events_topic());
    eventually("all of it is committed", || {
        let ends = topics.ends(&topic);
        let commits = topics.commits(&bench.group("clickhouse"), &topic);
        let is_done = commits
            .iter()
            .zip(&ends)
            .all(|((at, _), end)| at.max(&0) == end);
        is_done.then_some(()).ok_or_else(|| format!("{commits:?}"))
    });
}

/// Waits until the sink into ClickHouse halts for an unknown generation.
fn is_unknown(worker: &Worker) {
    eventually("clickhouse halts", || {
        let halt = worker.sink("clickhouse")["halt"]["code"].clone();
        same(&Json::from("generation_unknown"), halt)
    });
    worker.is_unhealthy();
}

/// A project whose two events are stored, and no worker.
fn filled<'a>(stack: &'a Stack, project: &str) -> Bench<'a> {
    let bench = Bench::new(stack, project);
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.insert(0, 1);
    bench.insert(1, 2);
    stores(&bench, 2);
    commits(&bench);
    worker.stop();
    bench
}

/// As if an earlier release had written all of it.
fn earlier(stack: &Stack) {
    let bench = filled(stack, "record");
    let (before, rows) = (recorded(&bench), versions(&bench));
    assert_eq!(before[NUMBER]["facts"]["generation"], 1, "{before:#?}");
    bench.clickhouse(
        "INSERT INTO {db}.fanout_topics SELECT * REPLACE (1 AS `format`, \
         (SELECT uuid FROM system.tables WHERE database = '{db}' \
         AND name = 'engagement_enriched_storage') AS table_id) FROM {db}.fanout_topics FINAL",
    );
    bench.forget(NUMBER);
    bench.forget(TABLE);
    assert_eq!(recorded(&bench), BTreeMap::new());
    let worker = bench.run(&["--sinks", "clickhouse"]);
    assert_eq!(recorded(&bench), before);
    let formats = "SELECT DISTINCT `format` FROM {db}.fanout_topics FINAL";
    assert_eq!(bench.clickhouse(formats), "2");
    assert_eq!(versions(&bench), rows, "no version is another");
    bench.insert(0, 3);
    stores(&bench, 3);
    eventually("it has gone on where it was", || {
        let applied = worker.sink("clickhouse")["applied"].clone();
        same(&Json::from(1), applied)
    });
    let generations = "SELECT DISTINCT toString(bitShiftRight(_version, 112)) \
                       FROM {db}.engagement_enriched_storage";
    assert_eq!(bench.clickhouse(generations), "1");
    worker.stop();
}

fn lost(stack: &Stack) {
    let bench = filled(stack, "lost-record");
    bench.forget(NUMBER);
    bench.forget(TABLE);
    let worker = bench.run_halted();
    is_unknown(&worker);
    // What was taken over once is not taken over again: it may be out of date.
    assert_eq!(recorded(&bench), BTreeMap::new());
    assert_eq!(worker.sink("http")["halt"], Json::Null);
    worker.stop();
}

/// A project that had no ClickHouse at first.
fn added(stack: &Stack) {
    let bench = Bench::new(stack, "added");
    let worker = run_lean(&bench);
    eventually("the first generation is recorded", || {
        let recorded = recorded(&bench);
        let is_first = recorded.contains_key(NUMBER) && !recorded.contains_key(TABLE);
        is_first
            .then_some(())
            .ok_or_else(|| format!("{recorded:?}"))
    });
    bench.insert(0, 1);
    worker.stop();
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.insert(1, 2);
    stores(&bench, 2);
    assert!(recorded(&bench).contains_key(TABLE));
    worker.stop();
}

/// A topic that was recreated while ClickHouse took no part.
fn recreated(stack: &Stack) {
    let bench = Bench::new(stack, "recreated");
    let worker = run_lean(&bench);
    eventually("the first generation is recorded", || {
        let recorded = recorded(&bench);
        let is_first = recorded.contains_key(NUMBER);
        is_first
            .then_some(())
            .ok_or_else(|| format!("{recorded:?}"))
    });
    worker.stop();
    Topics::of(stack).recreate(&bench.events_topic(), 3);
    let worker = bench.run_halted();
    eventually("clickhouse halts", || {
        let halt = worker.sink("clickhouse")["halt"]["code"].clone();
        same(&Json::from("topic_changed"), halt)
    });
    worker.stop();
}

/// Starts a worker of the project as one without ClickHouse.
fn run_lean(bench: &Bench<'_>) -> Worker {
    let lean = bench.fanout().with("FANOUT_PIPELINE_SINKS", "http");
    Worker::start(bench.stack(), &lean, &[])
}
