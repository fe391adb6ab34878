//! Killed at every step: at each crash point the process is killed, is started
//! again, and afterwards `verify` finds nothing. A point that nobody reaches
//! fails its test.
//!
//! The stack's own pipeline rests meanwhile; its sinks run as workers of their
//! own, under the same project, so that each can be killed apart.

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

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("each_step_of_each_sink", sinks::each_step),
    ("a_rebalance", sinks::rebalances),
    ("a_session_that_is_lost", sinks::lost_sessions),
    ("an_orderly_end", sinks::orderly_ends),
    ("dead_letters_replayed_and_purged", commands::dead_letters),
    ("a_change_of_the_placeholder", commands::placeholders),
    ("a_reset", commands::resets),
    ("a_backfill_from_the_log", commands::backfills),
    ("a_rebuild_from_the_source", commands::rebuilds),
    ("no_point_is_left_out", none_left_out),
];

/// A crash point: who passes it, and which step of it.
type Point = (&'static str, &'static str);

/// What leads to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A sink's worker under load.
    Load,
    /// Another worker that joins the group.
    Rebalance,
    /// The worker held still for longer than its session: so its only
    /// partition is taken from it.
    Lost,
    /// A signal to end.
    End,
    Placeholder,
    Replay,
    Purge,
    Reset,
    Log,
    Source,
}

/// What leads to this point. Where nothing does, its test fails.
fn way((who, step): Point) -> Way {
    match (who, step) {
        ("content", "draining") | (_, "leaving") => Way::End,
        ("content", "revoked" | "drained") => Way::Lost,
        ("clickhouse" | "http", "revoked" | "draining" | "drained") => Way::Rebalance,
        ("connector", _) => Way::Placeholder,
        ("dlq", "applied") => Way::Replay,
        ("dlq", _) => Way::Purge,
        ("reset", _) => Way::Reset,
        (
            "backfill",
            "planned" | "delivered" | "letters_sent" | "settled" | "keeping" | "kept"
            | "lease_taken_away" | "forgetting",
        ) => Way::Log,
        ("backfill", _) => Way::Source,
        _ => Way::Load,
    }
}

/// All points that this leads to, in their order.
fn points(wanted: Way) -> Vec<Point> {
    let all = POINTS
        .iter()
        .flat_map(|(who, steps)| steps.iter().map(move |step| (*who, *step)));
    all.filter(|point| way(*point) == wanted).collect()
}

/// A call that crashes at a point.
fn armed(fanout: &Fanout, (who, step): Point) -> Fanout {
    fanout.with("FANOUT_CRASH_AT", &format!("{who}.{step}"))
}

/// How long a killed worker is not missed.
const SESSION: Duration = Duration::from_millis(1500);

/// The project's workers, as they are run here: a killed one is missed soon.
fn workers(stack: &Stack) -> Fanout {
    let ms = SESSION.as_millis().to_string();
    let fanout = stack.fanout.with("FANOUT_KAFKA_SESSION_TIMEOUT_MS", &ms);
    // A change of content takes several statements.
    let fanout = fanout.with("FANOUT_CLICKHOUSE_REENRICH_ROWS", "50");
    fanout.with("FANOUT_BOARD_LEASE_MS", &ms)
}

/// Has all sinks run until nothing differs anywhere.
fn recovers(stack: &Stack, load: &Load<'_>) {
    let worker = Worker::start(stack, &workers(stack), &[]);
    load.is_clean();
    worker.stop();
}

/// Each way leads somewhere, and together they lead to every point.
fn none_left_out(stack: &Stack) {
    let ways = [
        Way::Load,
        Way::Rebalance,
        Way::Lost,
        Way::End,
        Way::Placeholder,
        Way::Replay,
        Way::Purge,
        Way::Reset,
        Way::Log,
        Way::Source,
    ];
    let tried: Vec<Point> = ways.into_iter().flat_map(points).collect();
    let all: usize = POINTS.iter().map(|(_, steps)| steps.len()).sum();
    assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), all);
    assert!(ways.into_iter().all(|way| !points(way).is_empty()));
    stack.mend();
}

/// `verify` finds no difference; what history no longer tells it says itself.
fn agrees(stack: &Stack) {
    stack.fanout.run(&["verify"]).ends_with(0);
}
