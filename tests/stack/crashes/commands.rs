//! The commands that take several steps: each is killed at each of them, and
//! run again finishes what it had begun.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use super::{Load, Point, RECONCILE, Way, agrees, armed, points};
use crate::{
    decoding,
    support::{Bench, Doomed, Fanout, Stack, eventually, same},
};

/// Runs a command that dies at a point.
fn dies_at(stack: &Stack, fanout: &Fanout, arguments: &[&str], point: Point) {
    // It says what it died of only where it says what it does.
    let all: Vec<&str> = ["-v"].iter().chain(arguments).copied().collect();
    Doomed::start(stack, &armed(fanout, point), &all).dies_at(point);
}

pub fn backfills(stack: &Stack) {
    let load = Load::new(stack);
    let from = jiff::Timestamp::now().to_string();
    // More than a moment's worth, of every kind.
    load.during(|| std::thread::sleep(std::time::Duration::from_secs(3)));
    load.is_clean();
    lose_half(stack, &from);
    let arguments = [
        "backfill",
        "--from",
        &from,
        "--sinks",
        "clickhouse,http,redis",
    ];
    goes_on(stack, &arguments, Way::Log);
    load.is_clean();
}

/// Runs a backfill that dies at each point of a way, each time going on from
/// where it died before, and at last comes to its end.
fn goes_on(stack: &Stack, arguments: &[&str], way: Way) {
    let journal = stack.file("backfill.json");
    for point in points(way) {
        dies_at(stack, &stack.fanout, arguments, point);
        assert!(journal.exists(), "{point:?}");
    }
    let report = stack.fanout.document(0, arguments);
    assert!(report["plan"]["resumes"].is_string(), "{report:#}");
    assert!(!journal.exists());
}

/// Removes from ClickHouse rows of events since then, as nothing of fanout's
/// would: only a backfill that is done to its end brings them all back.
fn lose_half(stack: &Stack, from: &str) {
    stack.stores.clickhouse(&format!(
        "ALTER TABLE analytics.engagement_enriched_storage
         DELETE WHERE event_id % 2 = 0 AND event_ts >= parseDateTime64BestEffort('{from}', 6, 'UTC')
         SETTINGS mutations_sync = 2"
    ));
}

pub fn rebuilds(stack: &Stack) {
    goes_on(stack, &RECONCILE, Way::Source);
    stack.is_well();
    agrees(stack);
}

/// A connector of before is given a placeholder: wherever that is interrupted,
/// the connector runs again afterwards, and its old placeholder has an end.
pub fn placeholders(stack: &Stack) {
    for point in points(Way::Placeholder) {
        decoding::of_before(stack);
        dies_at(stack, &stack.fanout, &["connector", "apply"], point);
        stack.fanout.run(&["connector", "apply"]).ends_with(0);
        let (known, configured) = (decoding::known(stack), decoding::configuration(stack));
        let placeholder = &configured["unavailable.value.placeholder"];
        assert_eq!(&known["placeholder"], placeholder, "{point:?}");
        assert_eq!(known["switching"], false, "{point:?}");
        assert!(known["earlier"][0]["until"].is_object(), "{known:#}");
    }
    agrees(stack);
}

/// The letters are of an external system that rejected everything, and then
/// takes it.
pub fn dead_letters(stack: &Stack) {
    const EVENTS: i64 = 5;
    let bench = Bench::new(stack, "crashdlq");
    bench.set_faults(&json!({"fail_rate": 1.0, "status": 422}));
    let worker = bench.run(&[]);
    for id in 0..EVENTS {
        bench.insert(0, id);
    }
    let letters = || {
        let listed = bench.fanout().document(0, &["dlq", "ls"]);
        (
            listed["letters"].as_array().map(Vec::len),
            listed["purged"].clone(),
        )
    };
    eventually("every event is rejected", || {
        same(&(Some(5), json!(0)), letters())
    });
    bench.set_faults(&json!({}));
    let keys = || {
        let accepted = bench.accepted().into_iter();
        let keys: Vec<String> = accepted.map(|call| call["key"].to_string()).collect();
        (keys.len(), keys.into_iter().collect::<BTreeSet<_>>().len())
    };
    for point in points(Way::Replay) {
        dies_at(stack, bench.fanout(), &["dlq", "replay", "--yes"], point);
        assert_eq!(letters().0, Some(5), "a letter is there until it is purged");
        let report = bench.fanout().document(0, &["dlq", "replay", "--yes"]);
        assert_eq!(report["done"]["replayed"]["http"]["applied"], EVENTS);
        assert_eq!(keys(), (5, 5), "each was accepted once");
    }
    for point in points(Way::Purge) {
        dies_at(stack, bench.fanout(), &["dlq", "purge", "--yes"], point);
        bench.fanout().run(&["dlq", "purge", "--yes"]).ends_with(0);
        assert_eq!(letters(), (Some(0), json!(5)), "{point:?}");
    }
    worker.stop();
}

/// A project whose servers are all somebody else's: what it has there is
/// removed piece by piece.
pub fn resets(stack: &Stack) {
    const PROJECT: &str = "crashreset";
    let bench = Bench::new(stack, PROJECT);
    let worker = bench.run(&[]);
    bench.insert(0, 1);
    eventually("the row is stored", || same(&1, bench.rows("1").len()));
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
    fs::write(&config, format!("services:\n{}", external.concat())).expect("written");
    let config = config.to_str().expect("a path in UTF-8");
    let fanout = bench.fanout().with("FANOUT_CONFIG", config);
    let listed = || {
        let plan = fanout.document(0, &["reset", "--dry-run"]);
        plan["removed"]["external"]
            .as_array()
            .expect("a list")
            .len()
    };
    let owned = listed();
    assert!(owned >= 8, "{owned}");
    let journal = stack.fanout.home().join(PROJECT).join("reset.json");
    for point in points(Way::Reset) {
        dies_at(stack, &fanout, &["reset", "--yes"], point);
        assert!(journal.exists(), "{point:?}");
        assert_eq!(listed(), owned, "what was set out to be removed is kept");
    }
    fanout.run(&["reset", "--yes"]).ends_with(0);
    assert_eq!(listed(), 0);
    assert!(!journal.parent().is_some_and(std::path::Path::exists));
}
