//! Commands that take several steps. Each command is killed at each step, and
//! running it again completes the work.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use super::{Load, Point, RECONCILE, Trigger, armed, assert_consistent, points};
use crate::{
    decoding,
    support::{Bench, CrashingCommand, Fanout, Stack, check_equal, eventually},
};

/// Runs a command and waits until it has crashed at a point.
fn run_until_crash(stack: &Stack, fanout: &Fanout, arguments: &[&str], point: Point) {
    // The command logs its crash point only with `-v`.
    let all: Vec<&str> = ["-v"].iter().chain(arguments).copied().collect();
    CrashingCommand::start(stack, &armed(fanout, point), &all).wait_for_crash(point);
}

pub fn backfills(stack: &Stack) {
    let load = Load::new(stack);
    let from = jiff::Timestamp::now().to_string();
    // The load must run long enough for changes of every kind.
    load.during(|| std::thread::sleep(std::time::Duration::from_secs(3)));
    load.assert_consistent();
    delete_half(stack, &from);
    let arguments = [
        "backfill",
        "--from",
        &from,
        "--sinks",
        "clickhouse,http,redis",
    ];
    assert_resumes(stack, &arguments, Trigger::Log);
    load.assert_consistent();
}

/// Kills a backfill at each crash point with this trigger. Each run resumes the
/// previous one, and the last run completes.
fn assert_resumes(stack: &Stack, arguments: &[&str], trigger: Trigger) {
    let journal = stack.file("backfill.json");
    for point in points(trigger) {
        run_until_crash(stack, &stack.fanout, arguments, point);
        assert!(journal.exists(), "{point:?}");
    }
    let report = stack.fanout.document(0, arguments);
    assert!(report["plan"]["resumes"].is_string(), "{report:#}");
    assert!(!journal.exists());
}

/// Deletes half of the rows since `from` from ClickHouse, which fanout itself
/// never does. Only a completed backfill restores all of them.
fn delete_half(stack: &Stack, from: &str) {
    stack.stores.clickhouse(&format!(
        "ALTER TABLE analytics.engagement_enriched_storage
         DELETE WHERE event_id % 2 = 0 AND event_ts >= parseDateTime64BestEffort('{from}', 6, 'UTC')
         SETTINGS mutations_sync = 2"
    ));
}

pub fn rebuilds(stack: &Stack) {
    assert_resumes(stack, &RECONCILE, Trigger::Source);
    stack.wait_until_healthy();
    assert_consistent(stack);
}

/// Upgrades the connector of an earlier version to a project-specific
/// placeholder. After an interruption at any point, the connector must run
/// again and the end of the old placeholder must be recorded.
pub fn placeholders(stack: &Stack) {
    for point in points(Trigger::Placeholder) {
        decoding::restore_old_placeholder(stack);
        run_until_crash(stack, &stack.fanout, &["connector", "apply"], point);
        stack.fanout.run(&["connector", "apply"]).ends_with(0);
        let (recorded, configured) = (
            decoding::recorded_placeholders(stack),
            decoding::configuration(stack),
        );
        let placeholder = &configured["unavailable.value.placeholder"];
        assert_eq!(&recorded["placeholder"], placeholder, "{point:?}");
        assert_eq!(recorded["switching"], false, "{point:?}");
        assert!(recorded["earlier"][0]["until"].is_object(), "{recorded:#}");
    }
    assert_consistent(stack);
}

/// Replays dead letters of an external system that first rejects all calls and
/// then accepts them.
pub fn dead_letters(stack: &Stack) {
    const EVENTS: i64 = 5;
    let bench = Bench::new(stack, "crashdlq");
    bench.set_faults(&json!({"fail_rate": 1.0, "status": 422}));
    let worker = bench.run(&[]);
    for id in 0..EVENTS {
        bench.insert(0, id);
    }
    let dead_letters = || {
        let listed = bench.fanout().document(0, &["dlq", "ls"]);
        (
            listed["letters"].as_array().map(Vec::len),
            listed["purged"].clone(),
        )
    };
    eventually("every event is rejected", || {
        check_equal(&(Some(5), json!(0)), dead_letters())
    });
    bench.set_faults(&json!({}));
    let keys = || {
        let accepted = bench.accepted().into_iter();
        let keys: Vec<String> = accepted.map(|call| call["key"].to_string()).collect();
        (keys.len(), keys.into_iter().collect::<BTreeSet<_>>().len())
    };
    for point in points(Trigger::Replay) {
        run_until_crash(stack, bench.fanout(), &["dlq", "replay", "--yes"], point);
        assert_eq!(
            dead_letters().0,
            Some(5),
            "a dead letter is kept until it is purged"
        );
        let report = bench.fanout().document(0, &["dlq", "replay", "--yes"]);
        assert_eq!(report["done"]["replayed"]["http"]["applied"], EVENTS);
        assert_eq!(keys(), (5, 5), "each call was accepted once");
    }
    for point in points(Trigger::Purge) {
        run_until_crash(stack, bench.fanout(), &["dlq", "purge", "--yes"], point);
        bench.fanout().run(&["dlq", "purge", "--yes"]).ends_with(0);
        assert_eq!(dead_letters(), (Some(0), json!(5)), "{point:?}");
    }
    worker.stop();
}

/// Resets a project on external servers, whose objects are removed one by one.
pub fn resets(stack: &Stack) {
    const PROJECT: &str = "crashreset";
    let bench = Bench::new(stack, PROJECT);
    let worker = bench.run(&[]);
    bench.insert(0, 1);
    eventually("the row is stored", || {
        check_equal(&1, bench.rows("1").len())
    });
    worker.stop();
    let services = [
        "postgres",
        "kafka",
        "connect",
        "clickhouse",
        "redis",
        "stub",
    ];
    let external = services.map(|name| format!("  {name}: {{runtime: external}}\n"));
    let config = stack.fanout.home().join("external.yaml");
    fs::write(&config, format!("services:\n{}", external.concat()))
        .expect("write the configuration");
    let config = config.to_str().expect("a path in UTF-8");
    let fanout = bench.fanout().with("FANOUT_CONFIG", config);
    let listed_count = || {
        let plan = fanout.document(0, &["reset", "--dry-run"]);
        plan["removed"]["external"]
            .as_array()
            .expect("a list")
            .len()
    };
    let objects = listed_count();
    assert!(objects >= 8, "{objects}");
    let journal = stack.fanout.home().join(PROJECT).join("reset.json");
    for point in points(Trigger::Reset) {
        run_until_crash(stack, &fanout, &["reset", "--yes"], point);
        assert!(journal.exists(), "{point:?}");
        assert_eq!(
            listed_count(),
            objects,
            "the list of objects to remove is kept"
        );
    }
    fanout.run(&["reset", "--yes"]).ends_with(0);
    assert_eq!(listed_count(), 0);
    assert!(!journal.parent().is_some_and(std::path::Path::exists));
}
