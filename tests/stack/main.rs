//! fanout whole, on the real servers: one stack, brought up natively for all
//! of these tests, which run one after the other in the order below.
//!
//! `cargo test --test stack` runs them, `cargo test --test stack -- verify`
//! those of one name. The stack is reset when the process ends, however it
//! ends.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod backfill;
mod cases;
mod commands;
#[cfg(feature = "crash-points")]
mod crashes;
mod dead_letters;
mod end_to_end;
mod external;
mod history;
mod operating;
mod reset;
mod support;
mod verify;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Trial};
use support::{Shared, Stack};

/// A test: a sentence, and what proves it.
type Test = (&'static str, fn(&Stack));

fn main() -> ExitCode {
    let arguments = Arguments {
        // They share the stack.
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let shared = Shared::default();
    // What leaves the stack as it found it comes before what does not.
    let groups: &[(&str, &[Test])] = &[
        ("operating", operating::TESTS),
        ("commands", commands::TESTS),
        ("end_to_end", end_to_end::TESTS),
        ("backfill", backfill::TESTS),
        ("dead_letters", dead_letters::TESTS),
        ("verify", verify::TESTS),
        ("cases", cases::TESTS),
        ("external", external::TESTS),
        #[cfg(feature = "crash-points")]
        ("crashes", crashes::TESTS),
        ("history", history::TESTS),
        ("reset", reset::TESTS),
    ];
    #[cfg(not(feature = "crash-points"))]
    eprintln!("the crash points are left out: they are built with --features crash-points");
    let trials = groups.iter().flat_map(|(group, tests)| {
        let shared = shared.clone();
        tests.iter().map(move |(name, test)| {
            let shared = shared.clone();
            Trial::test(format!("{group}::{name}"), move || {
                prove(&shared, *test);
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a test; where it fails, what the stack says of itself is shown too.
fn prove(shared: &Shared, test: fn(&Stack)) {
    let stack = shared.stack();
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(stack))) {
        eprintln!("{}", stack.evidence());
        resume_unwind(failure);
    }
}
