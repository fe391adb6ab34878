//! Crash tests: at each crash point the process is killed and started again,
//! and afterwards `verify` must find no difference. A crash point that is never
//! reached fails its test.
//!
//! The stack's own pipeline is stopped meanwhile. Its sinks run as separate
//! workers of the same project, so that each of them can be killed separately.

mod commands;
mod load;
mod sinks;

use std::{collections::BTreeSet, time::Duration};

use fanout::crash::POINTS;

use self::load::Load;
use crate::{
    Test,
    history::RECONCILE,
    support::{Fanout, Stack, Worker},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("each_step_of_each_sink", sinks::each_step),
    ("a_rebalance", sinks::rebalances),
    ("a_lost_session", sinks::lost_sessions),
    ("a_clean_shutdown", sinks::clean_shutdowns),
    ("dead_letters_replayed_and_purged", commands::dead_letters),
    ("a_change_of_the_placeholder", commands::placeholders),
    ("a_reset", commands::resets),
    ("a_backfill_from_the_log", commands::backfills),
    ("a_rebuild_from_the_source", commands::rebuilds),
    ("every_crash_point_is_tested", coverage),
];

/// A crash point: its module and step.
type Point = (&'static str, &'static str);

/// The situation in which a crash point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// A sink's worker runs under load.
    Load,
    /// Another worker joins the group.
    Rebalance,
    /// The worker is paused for longer than its session timeout, so it loses
    /// its only partition.
    Lost,
    /// The worker is stopped by a signal.
    End,
    Placeholder,
    Replay,
    Purge,
    Reset,
    Log,
    Source,
}

/// Returns the trigger of a crash point. A point that its trigger does not
/// reach fails the test.
fn trigger_of((module, step): Point) -> Trigger {
    match (module, step) {
        ("content", "draining") | (_, "leaving") => Trigger::End,
        ("content", "revoked" | "drained") => Trigger::Lost,
        ("clickhouse" | "http", "revoked" | "draining" | "drained") => Trigger::Rebalance,
        ("connector", _) => Trigger::Placeholder,
        ("dlq", "applied") => Trigger::Replay,
        ("dlq", _) => Trigger::Purge,
        ("reset", _) => Trigger::Reset,
        (
            "backfill",
            "planned" | "delivered" | "letters_sent" | "settled" | "keeping" | "kept"
            | "lease_taken_away" | "forgetting",
        ) => Trigger::Log,
        ("backfill", _) => Trigger::Source,
        _ => Trigger::Load,
    }
}

/// Returns all crash points with this trigger, in order.
fn points(trigger: Trigger) -> Vec<Point> {
    let all = POINTS
        .iter()
        .flat_map(|(module, steps)| steps.iter().map(move |step| (*module, *step)));
    all.filter(|point| trigger_of(*point) == trigger).collect()
}

/// Returns a caller of the binary that crashes at this point.
fn armed(fanout: &Fanout, (module, step): Point) -> Fanout {
    fanout.with("FANOUT_CRASH_AT", &format!("{module}.{step}"))
}

/// The session timeout of the workers here.
const SESSION: Duration = Duration::from_millis(1500);

/// Returns a caller with short timeouts, so that a killed worker is replaced
/// soon.
fn workers(stack: &Stack) -> Fanout {
    let ms = SESSION.as_millis().to_string();
    let fanout = stack.fanout.with("FANOUT_KAFKA_SESSION_TIMEOUT_MS", &ms);
    // A change of content must take several statements.
    let fanout = fanout.with("FANOUT_CLICKHOUSE_REENRICH_ROWS", "50");
    fanout.with("FANOUT_BOARD_LEASE_MS", &ms)
}

/// Runs all sinks and asserts that every store becomes consistent.
fn assert_recovery(stack: &Stack, load: &Load<'_>) {
    let worker = Worker::start(stack, &workers(stack), &[]);
    load.assert_consistent();
    worker.stop();
}

/// Every trigger has crash points, and together the triggers cover every crash
/// point.
fn coverage(stack: &Stack) {
    let triggers = [
        Trigger::Load,
        Trigger::Rebalance,
        Trigger::Lost,
        Trigger::End,
        Trigger::Placeholder,
        Trigger::Replay,
        Trigger::Purge,
        Trigger::Reset,
        Trigger::Log,
        Trigger::Source,
    ];
    let tested: Vec<Point> = triggers.into_iter().flat_map(points).collect();
    let all: usize = POINTS.iter().map(|(_, steps)| steps.len()).sum();
    assert_eq!(tested.iter().collect::<BTreeSet<_>>().len(), all);
    assert!(
        triggers
            .into_iter()
            .all(|trigger| !points(trigger).is_empty())
    );
    stack.repair();
}

/// Asserts that `verify` finds no difference. Checks that the log can no longer
/// support are allowed to be skipped.
fn assert_consistent(stack: &Stack) {
    stack.fanout.run(&["verify"]).ends_with(0);
}
