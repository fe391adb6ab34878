//! Runs tests that share one stack, in their order.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Completion, Trial};

/// A test of a stack: a sentence, and what proves it.
pub type Test<S> = (&'static str, fn(&S));

/// What all tests share.
pub trait Subject {
    /// What an operator would look at first.
    fn evidence(&self) -> String;
}

/// Why a test was left out.
struct LeftOut(String);

/// Ends a test that cannot be made on this machine. It does not count as
/// passed: it is reported as ignored, for this reason.
pub fn leave_out(reason: &str) -> ! {
    resume_unwind(Box::new(LeftOut(reason.to_owned())))
}

/// Runs the tests of every group. `stack` gives the one that they share; where
/// there is no way to have one, all are reported as ignored.
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
            Trial::ignorable_test(format!("{group}::{name}"), move || {
                let run = AssertUnwindSafe(|| stack(&|stack| prove(stack, *test)));
                match catch_unwind(run) {
                    Ok(()) => Ok(Completion::Completed),
                    Err(failure) => match failure.downcast::<LeftOut>() {
                        Ok(left_out) => Ok(Completion::ignored_with(left_out.0)),
                        Err(failure) => resume_unwind(failure),
                    },
                }
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a test; where it fails, what the stack says of itself is shown too.
fn prove<S: Subject>(stack: &S, test: fn(&S)) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(stack))) {
        if !failure.is::<LeftOut>() {
            eprintln!("{}", stack.evidence());
        }
        resume_unwind(failure);
    }
}
