//! The recorded generations: they are taken over from the tables of earlier
//! releases, shared by every set of sinks, and detected if lost. No number is
//! used twice, so no new row is ever older than an existing one.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Stack, Topics, Worker, check_equal, eventually, records},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("generations_of_an_earlier_release_are_adopted", earlier),
    ("a_lost_generation_record_halts_the_sink", lost),
    ("an_added_sink_uses_the_recorded_generation", added),
    (
        "a_topic_recreated_before_a_sink_is_added_is_detected",
        recreated,
    ),
];

const NUMBER: &str = "generation/1";
const TABLE: &str = "generation/1/table/clickhouse";

/// Returns the generations that the state topic has, by key.
fn recorded_generations(bench: &Bench<'_>) -> BTreeMap<String, Json> {
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

/// Returns the id and version of each event.
fn versions(bench: &Bench<'_>) -> String {
    bench.clickhouse(
        "SELECT event_id, toString(_version) FROM {db}.engagement_enriched_storage FINAL \
         ORDER BY event_id FORMAT TSV",
    )
}

fn wait_for_rows(bench: &Bench<'_>, count: usize) {
    eventually("the rows are stored", || {
        check_equal(&count, bench.rows("1").len())
    });
}

/// Waits until the sink has committed the end of the topic.
fn wait_until_committed(bench: &Bench<'_>) {
    let (topics, topic) = (Topics::new(bench.stack()), bench.events_topic());
    eventually("all records are committed", || {
        let ends = topics.end_offsets(&topic);
        let commits = topics.commits(&bench.group("clickhouse"), &topic);
        let is_done = commits
            .iter()
            .zip(&ends)
            .all(|((offset, _), end)| offset.max(&0) == end);
        is_done.then_some(()).ok_or_else(|| format!("{commits:?}"))
    });
}

/// Waits until the ClickHouse sink halts because of an unknown generation.
fn wait_for_unknown_generation(worker: &Worker) {
    eventually("clickhouse halts", || {
        let halt = worker.sink("clickhouse")["halt"]["code"].clone();
        check_equal(&Json::from("generation_unknown"), halt)
    });
    worker.assert_unhealthy();
}

/// Returns a project with two stored events and no running worker.
fn filled<'a>(stack: &'a Stack, project: &str) -> Bench<'a> {
    let bench = Bench::new(stack, project);
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.insert(0, 1);
    bench.insert(1, 2);
    wait_for_rows(&bench, 2);
    wait_until_committed(&bench);
    worker.stop();
    bench
}

/// Restores the state that an earlier release would have written.
fn earlier(stack: &Stack) {
    let bench = filled(stack, "record");
    let (before, rows) = (recorded_generations(&bench), versions(&bench));
    assert_eq!(before[NUMBER]["facts"]["generation"], 1, "{before:#?}");
    bench.clickhouse(
        "INSERT INTO {db}.fanout_topics SELECT * REPLACE (1 AS `format`, \
         (SELECT uuid FROM system.tables WHERE database = '{db}' \
         AND name = 'engagement_enriched_storage') AS table_id) FROM {db}.fanout_topics FINAL",
    );
    bench.delete_state(NUMBER);
    bench.delete_state(TABLE);
    assert_eq!(recorded_generations(&bench), BTreeMap::new());
    let worker = bench.run(&["--sinks", "clickhouse"]);
    assert_eq!(recorded_generations(&bench), before);
    let formats = "SELECT DISTINCT `format` FROM {db}.fanout_topics FINAL";
    assert_eq!(bench.clickhouse(formats), "2");
    assert_eq!(versions(&bench), rows, "the versions are unchanged");
    bench.insert(0, 3);
    wait_for_rows(&bench, 3);
    eventually("the worker resumes from the commits", || {
        let applied = worker.sink("clickhouse")["applied"].clone();
        check_equal(&Json::from(1), applied)
    });
    let generations = "SELECT DISTINCT toString(bitShiftRight(_version, 112)) \
                       FROM {db}.engagement_enriched_storage";
    assert_eq!(bench.clickhouse(generations), "1");
    worker.stop();
}

fn lost(stack: &Stack) {
    let bench = filled(stack, "lost-record");
    bench.delete_state(NUMBER);
    bench.delete_state(TABLE);
    let worker = bench.run_halted();
    wait_for_unknown_generation(&worker);
    // A generation is taken over only once, because the old record may be out
    // of date.
    assert_eq!(recorded_generations(&bench), BTreeMap::new());
    assert_eq!(worker.sink("http")["halt"], Json::Null);
    worker.stop();
}

/// A project that initially has no ClickHouse sink.
fn added(stack: &Stack) {
    let bench = Bench::new(stack, "added");
    let worker = run_without_clickhouse(&bench);
    eventually("the first generation is recorded", || {
        let recorded = recorded_generations(&bench);
        let is_first = recorded.contains_key(NUMBER) && !recorded.contains_key(TABLE);
        is_first
            .then_some(())
            .ok_or_else(|| format!("{recorded:?}"))
    });
    bench.insert(0, 1);
    worker.stop();
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.insert(1, 2);
    wait_for_rows(&bench, 2);
    assert!(recorded_generations(&bench).contains_key(TABLE));
    worker.stop();
}

/// A topic that is recreated while ClickHouse is not a sink.
fn recreated(stack: &Stack) {
    let bench = Bench::new(stack, "recreated");
    let worker = run_without_clickhouse(&bench);
    eventually("the first generation is recorded", || {
        let recorded = recorded_generations(&bench);
        let is_first = recorded.contains_key(NUMBER);
        is_first
            .then_some(())
            .ok_or_else(|| format!("{recorded:?}"))
    });
    worker.stop();
    Topics::new(stack).recreate(&bench.events_topic(), 3);
    let worker = bench.run_halted();
    eventually("clickhouse halts", || {
        let halt = worker.sink("clickhouse")["halt"]["code"].clone();
        check_equal(&Json::from("topic_changed"), halt)
    });
    worker.stop();
}

/// Starts a worker of the project without ClickHouse.
fn run_without_clickhouse(bench: &Bench<'_>) -> Worker {
    let fanout = bench.fanout().with("FANOUT_PIPELINE_SINKS", "http");
    Worker::start(bench.stack(), &fanout, &[])
}
