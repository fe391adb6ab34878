//! A storm over the whole stack: everything that can break breaks, on a
//! schedule that a seed repeats, while the source goes on changing and a
//! reader of its own keeps every board that is published. Then the oracle.
//!
//! `make storm` runs it, three minutes long; `STORM_MINUTES=60 make storm`
//! longer, `STORM_SEED=… make storm` the schedule of another run. Without
//! being asked for, only what the storm is made of is tested.
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
        // What is found is told by when it happened.
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let parts: [(&str, fn()); 6] = [
        (
            "schedule::the_same_seed_is_the_same_schedule",
            schedule::tests::the_same_seed_is_the_same_schedule,
        ),
        (
            "schedule::three_minutes_hold_every_kind",
            schedule::tests::three_minutes_hold_every_kind,
        ),
        (
            "schedule::nothing_begins_before_the_calm_or_after_the_end",
            schedule::tests::nothing_begins_before_the_calm_or_after_the_end,
        ),
        (
            "proxy::every_mode_does_what_it_says",
            proxy::tests::every_mode_does_what_it_says,
        ),
        (
            "log::each_record_is_what_the_rules_say",
            log::tests::each_record_is_what_the_rules_say,
        ),
        (
            "model::a_board_is_a_function_of_positions_and_moment",
            model::tests::a_board_is_a_function_of_positions_and_moment,
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
