//! Runs tests that share one stack, in their order.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Trial};

/// A test of a stack: a sentence, and what proves it.
pub type Test<S> = (&'static str, fn(&S));

/// What all tests share.
pub trait Subject {
    /// What an operator would look at first.
    fn evidence(&self) -> String;
}

/// Runs the tests of every group. `stack` gives the one that they share.
pub fn run<S: Subject + 'static>(
    arguments: Arguments,
    groups: &[(&str, &'static [Test<S>])],
    stack: impl Fn(&dyn Fn(&S)) + Clone + Send + 'static,
) -> ExitCode {
    let arguments = Arguments {
        // They share the stack.
        test_threads: Some(1),
        ..arguments
    };
    let trials = groups.iter().flat_map(|(group, tests)| {
        let stack = stack.clone();
        tests.iter().map(move |(name, test)| {
            let stack = stack.clone();
            Trial::test(format!("{group}::{name}"), move || {
                stack(&|stack| prove(stack, *test));
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a test; where it fails, what the stack says of itself is shown too.
fn prove<S: Subject>(stack: &S, test: fn(&S)) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(stack))) {
        eprintln!("{}", stack.evidence());
        resume_unwind(failure);
    }
}
