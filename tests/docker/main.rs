//! The stack in containers, from the first pull to the reset: one stack, and
//! one test after the other in the order below.
//!
//! `make test-docker` runs them, with the images that `FANOUT_TEST_DOCKER`
//! names: `official`, or a registry that has stand-ins for them. Without it
//! they are left out.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../stack/support/binary.rs"]
mod binary;
#[path = "../stack/support/guard.rs"]
#[expect(dead_code, reason = "no process is run beside the stack here")]
mod guard;
mod life;
mod misfits;
mod operating;
mod refusals;
mod stack;
mod tls;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Trial};
use stack::Stack;

/// A test: a sentence, and what proves it.
type Test = (&'static str, fn(&Stack));

fn main() -> ExitCode {
    let Ok(images) = env::var("FANOUT_TEST_DOCKER") else {
        println!("the tests in containers are left out: `make test-docker` runs them");
        return ExitCode::SUCCESS;
    };
    let arguments = Arguments {
        // They share the stack.
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let stack = Arc::new(Stack::new(&images));
    let groups: [(&str, &[Test]); 5] = [
        ("operating", operating::TESTS),
        ("refusals", refusals::TESTS),
        ("misfits", misfits::TESTS),
        ("tls", tls::TESTS),
        ("life", life::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        let stack = stack.clone();
        tests.iter().map(move |(name, test)| {
            let stack = stack.clone();
            Trial::test(format!("{group}::{name}"), move || {
                prove(&stack, *test);
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a test; where it fails, what the stack says of itself is shown too.
fn prove(stack: &Stack, test: fn(&Stack)) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(stack))) {
        eprintln!("{}", stack.evidence());
        resume_unwind(failure);
    }
}
