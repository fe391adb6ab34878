//! The stack in containers, from the first pull to the reset: one stack, and
//! one test after the other in the order below.
//!
//! `make test-docker` runs them, with the images that `FANOUT_TEST_DOCKER`
//! names: `official`, or a registry that has stand-ins for them. Without it
//! they are reported as ignored.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../stack/support/binary.rs"]
mod binary;
#[path = "../stack/support/canary.rs"]
#[expect(
    dead_code,
    reason = "the stack of containers has a configuration of its own"
)]
mod canary;
#[path = "../stack/support/guard.rs"]
#[expect(dead_code, reason = "no process is run beside the stack here")]
mod guard;
mod life;
mod misfits;
mod operating;
mod refusals;
mod stack;
mod tls;
#[path = "../stack/support/trials.rs"]
mod trials;

use std::{
    env,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use libtest_mimic::Arguments;
use stack::Stack;

/// A test: a sentence, and what proves it.
type Test = trials::Test<Stack>;

fn main() -> ExitCode {
    let images = env::var("FANOUT_TEST_DOCKER").ok();
    let stack = Arc::new(OnceLock::new());
    let groups: [(&str, &[Test]); 5] = [
        ("operating", operating::TESTS),
        ("refusals", refusals::TESTS),
        ("misfits", misfits::TESTS),
        ("tls", tls::TESTS),
        ("life", life::TESTS),
    ];
    trials::run(
        Arguments::from_args(),
        &groups,
        move |prove| match &images {
            Some(images) => prove(stack.get_or_init(|| Stack::new(images))),
            None => trials::skip("`make test-docker` runs it"),
        },
    )
}
