//! End-to-end tests of fanout on real servers. All tests share one stack,
//! started natively, and run one after the other in the order below.
//!
//! `cargo test --test stack` runs all tests as two processes in parallel, each
//! with its own stack. `cargo test --test stack -- verify` runs only the tests
//! whose name contains `verify`. A stack is reset when its process ends, even
//! if the process is killed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod backfill;
mod cases;
mod commands;
mod consent;
#[cfg(feature = "crash-points")]
mod crashes;
mod dead_letters;
mod decoding;
mod end_to_end;
mod enrichment;
mod external;
mod generations;
mod halves;
mod history;
mod masses;
mod operating;
mod positions;
mod refused_writes;
mod reset;
mod secrets;
mod security;
mod shape;
mod source;
mod support;
mod surroundings;
mod topics;
mod verify;
mod without_clickhouse;
mod workers;

use std::process::ExitCode;

use support::{Shared, Stack, trials};

/// A test: its name and its function.
type Test = trials::Test<Stack>;

fn main() -> ExitCode {
    let shared = Shared::default();
    // Tests that leave the stack unchanged run before tests that change it.
    let groups: &[(&str, &[Test])] = &[
        ("operating", operating::TESTS),
        ("security", security::TESTS),
        ("refused_writes", refused_writes::TESTS),
        ("commands", commands::TESTS),
        ("end_to_end", end_to_end::TESTS),
        ("topics", topics::TESTS),
        ("enrichment", enrichment::TESTS),
        ("backfill", backfill::TESTS),
        ("dead_letters", dead_letters::TESTS),
        ("verify", verify::TESTS),
        ("decoding", decoding::TESTS),
        ("shape", shape::TESTS),
        ("cases", cases::TESTS),
        ("external", external::TESTS),
        ("positions", positions::TESTS),
        ("generations", generations::TESTS),
        ("surroundings", surroundings::TESTS),
        ("consent", consent::TESTS),
        ("without_clickhouse", without_clickhouse::TESTS),
        // Searches everything that the tests above left behind for secrets.
        ("secrets", secrets::TESTS),
        #[cfg(feature = "crash-points")]
        ("crashes", crashes::TESTS),
        ("masses", masses::TESTS),
        // From here on the log no longer has the full history, and `verify`
        // reports it.
        ("workers", workers::TESTS),
        ("history", history::TESTS),
        ("source", source::TESTS),
        ("reset", reset::TESTS),
    ];
    #[cfg(not(feature = "crash-points"))]
    eprintln!("the crash points are skipped; build with --features crash-points");
    let names: Vec<&str> = groups.iter().map(|(name, _)| *name).collect();
    halves::run(
        &names,
        &[
            "generations",
            "without_clickhouse",
            "crashes",
            "masses",
            "history",
            "source",
            "reset",
        ],
        |arguments| trials::run(arguments, groups, move |run| run(shared.stack())),
    )
}
