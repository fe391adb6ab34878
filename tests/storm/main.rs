//! A storm test of the full stack: everything that can fail does fail, on a
//! schedule derived from a seed, while the source keeps changing and a reader
//! records every published board. Afterwards the oracle checks all stores.
//!
//! `make storm` runs a storm of three minutes. `STORM_MINUTES=60 make storm`
//! runs a longer storm, and `STORM_SEED=… make storm` repeats the schedule of
//! an earlier run. Without `make storm`, only the parts of the storm are
//! tested.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod acknowledged;
mod faults;
mod load;
mod log;
mod model;
mod oracle;
mod poison;
mod proxy;
mod reader;
mod recovery;
mod report;
mod schedule;
mod stage;
mod storm;
#[path = "../stack/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the stack's tests use all of it")]
mod support;
mod workers;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments {
        // Log lines of parallel tests would be interleaved.
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let parts: [(&str, fn()); 6] = [
        (
            "schedule::the_same_seed_gives_the_same_schedule",
            schedule::tests::the_same_seed_gives_the_same_schedule,
        ),
        (
            "schedule::three_minutes_include_every_fault",
            schedule::tests::three_minutes_include_every_fault,
        ),
        (
            "schedule::no_fault_begins_during_the_calm_or_after_the_end",
            schedule::tests::no_fault_begins_during_the_calm_or_after_the_end,
        ),
        (
            "proxy::every_mode_affects_connections_as_documented",
            proxy::tests::every_mode_affects_connections_as_documented,
        ),
        (
            "log::each_record_is_decoded_by_the_rules",
            log::tests::each_record_is_decoded_by_the_rules,
        ),
        (
            "model::a_board_is_a_function_of_positions_and_time",
            model::tests::a_board_is_a_function_of_positions_and_time,
        ),
    ];
    let mut trials: Vec<Trial> = parts
        .into_iter()
        .map(|(name, part)| {
            Trial::test(name, move || {
                part();
                Ok(())
            })
        })
        .collect();
    let storm = Trial::test("storm", || {
        storm::run();
        Ok(())
    });
    trials.push(storm.with_ignored_flag(true));
    libtest_mimic::run(&arguments, trials).exit_code()
}
