//! Backfill from the log: history is applied again at its original positions,
//! while the pipeline keeps running undisturbed.

use std::{fs, fs::File, process::Stdio};

use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Bench, Event, Stack, Stub, accepted_by, check_equal, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("a_lost_row_is_restored_from_the_log", lost_row),
    ("a_dry_run_reports_what_it_would_replay", dry_run),
    ("a_killed_backfill_resumes", killed),
    ("only_one_backfill_runs_at_a_time", one_at_a_time),
    ("the_board_is_rebuilt", board),
    (
        "the_external_system_is_backfilled_only_on_request",
        external,
    ),
    (
        "a_time_before_the_log_is_refused_with_a_hint",
        before_the_log,
    ),
];

const STORAGE: &str = "analytics.engagement_enriched_storage";

/// Returns the stored version of an event.
fn version(stack: &Stack, id: i64) -> String {
    stack.stores.clickhouse(&format!(
        "SELECT toString(max(_version)) FROM {STORAGE} WHERE event_id = {id}"
    ))
}

/// Deletes stored rows, which fanout itself never does.
fn delete_rows(stack: &Stack, condition: &str) {
    stack.stores.clickhouse(&format!(
        "ALTER TABLE {STORAGE} DELETE WHERE {condition} SETTINGS mutations_sync = 2"
    ));
}

fn lost_row(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    let before = version(stack, event.id);
    delete_rows(stack, &format!("event_id = {}", event.id));
    assert_eq!(stack.stores.row(event.id), None);
    let pid = stack.pid("pipeline");
    let report = stack.fanout.document(0, &["backfill", "--from", "10m"]);
    assert!(report["plan"]["messages"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["plan"]["resumes"], Json::Null);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    assert_eq!(version(stack, event.id), before);
    assert_eq!(stack.pid("pipeline"), pid);
    stack.assert_verified();
}

fn dry_run(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    delete_rows(stack, &format!("event_id = {}", event.id));
    let all = ["backfill", "--from", "earliest", "--dry-run"];
    let report = stack.fanout.document(0, &all);
    let partitions = report["plan"]["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 3, "{report:#}");
    assert_eq!(report["done"], Json::Null);
    assert_eq!(stack.stores.row(event.id), None);
    let none = [
        "backfill",
        "--from",
        "earliest",
        "--to",
        "2020-01-01T00:00:00Z",
    ];
    let report = stack.fanout.document(0, &none);
    assert_eq!(report["plan"]["messages"], 0, "{report:#}");
    assert_eq!(stack.stores.row(event.id), None);
    stack.fanout.run(&["backfill", "--from", "1h"]).ends_with(0);
    event.wait_for_column("device", &Json::from("ios"));
}

fn killed(stack: &Stack) {
    let seed = ["seed", "--events", "6000", "--content", "10"];
    stack.fanout.run(&seed).ends_with(0);
    stack.assert_verified();
    delete_rows(stack, "event_id % 2 = 0");
    let arguments = ["backfill", "--from", "earliest"];
    // Small batches make the backfill slow enough to be killed midway.
    let slow = stack.fanout.with("FANOUT_CLICKHOUSE_BATCH_ROWS", "20");
    let mut first = slow
        .command(&arguments)
        .stderr(Stdio::null())
        .spawn()
        .expect("start the binary");
    let journal = stack.file("backfill.json");
    eventually("the backfill makes progress", || {
        let text = fs::read_to_string(&journal).map_err(|error| error.to_string())?;
        let state: Json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let parts = state["replays"]["clickhouse"].as_array().cloned();
        let has_progress = parts
            .into_iter()
            .flatten()
            .any(|part| part["next"].as_i64() > part["from"].as_i64());
        has_progress.then_some(()).ok_or(text)
    });
    first.kill().expect("kill the backfill");
    let status = first.wait().expect("wait for the backfill");
    assert_eq!(
        status.code(),
        None,
        "the backfill ended before it was killed"
    );
    let report = stack.fanout.document(0, &arguments);
    assert!(report["plan"]["resumes"].is_string(), "{report:#}");
    let applied = report["done"]["replayed"]["clickhouse"]["applied"].as_u64();
    assert!(applied < report["plan"]["messages"].as_u64(), "{report:#}");
    assert!(!journal.exists());
    stack.assert_verified();
}

fn one_at_a_time(stack: &Stack) {
    let lock = File::create(stack.file("backfill.lock")).expect("create the lock file");
    lock.try_lock().expect("take the lock");
    let ended = stack.fanout.run(&["backfill", "--from", "1m"]);
    ended
        .ends_with(6)
        .says("another backfill of project fanout");
    drop(lock);
    stack.fanout.run(&["backfill", "--from", "1m"]).ends_with(0);
    let unknown = ["backfill", "--from", "1m", "--sinks", "bigquery"];
    stack
        .fanout
        .run(&unknown)
        .ends_with(2)
        .says("unknown sink \"bigquery\"");
}

fn board(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let arguments = ["backfill", "--from", "10m", "--sinks", "redis"];
    let report = stack.fanout.document(0, &arguments);
    assert!(report["done"]["board"].as_u64() > Some(0), "{report:#}");
    event.wait_for_score(event.content, Some(1));
}

/// The log is sent once to another external system.
fn external(stack: &Stack) {
    let event = Event::insert(stack);
    let folder = tempfile::tempdir().expect("create a folder");
    let stub = Stub::start(stack, folder.path());
    event.wait_for_score(event.content, Some(1));
    let call = |url: &str| {
        let accepted = accepted_by(url);
        let mut calls = accepted
            .into_iter()
            .filter(|call| call["body"]["id"] == event.id);
        calls.next().map(|call| call["key"].clone())
    };
    let default_url = stack.stores.url("FANOUT_EXTERNAL_URL");
    let key = eventually("the default external system receives the event", || {
        call(default_url).ok_or_else(|| "not yet".to_owned())
    });
    assert_eq!(call(&stub.url), None);
    let fanout = stack.fanout.with("FANOUT_EXTERNAL_URL", &stub.url);
    let arguments = ["backfill", "--from", "5m", "--sinks", "http"];
    fanout.run(&arguments).ends_with(0);
    eventually("the other external system receives the same call", || {
        check_equal(&Some(key.clone()), call(&stub.url))
    });
}

fn before_the_log(stack: &Stack) {
    let bench = Bench::new(stack, "older");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    for id in 0..4 {
        bench.insert(0, id);
    }
    eventually("the rows are stored", || {
        check_equal(&4, bench.rows("1").len())
    });
    worker.stop();
    bench.delete_before(0, 2);
    let arguments = ["backfill", "--from", "2020-01-01T00:00:00Z"];
    let ended = bench.fanout().run(&arguments).ends_with(1);
    let ended = ended.says("partition 0 starts at offset 2");
    ended.says("backfill --from 2020-01-01T00:00:00.000000Z --source database");
    let report = bench
        .fanout()
        .document(0, &["backfill", "--from", "earliest"]);
    assert_eq!(
        report["done"]["replayed"]["clickhouse"]["applied"],
        json!(2)
    );
}
