//! Runs tests that share one stack, in their order.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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
    let times = Times::default();
    let trials = groups.iter().flat_map(|(group, tests)| {
        let (stack, times) = (stack.clone(), times.clone());
        let group = (*group).to_owned();
        tests.iter().map(move |(name, test)| {
            let (stack, times, group) = (stack.clone(), times.clone(), group.clone());
            Trial::ignorable_test(format!("{group}::{name}"), move || {
                let _time = times.of(&group);
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
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    times.tell();
    conclusion.exit_code()
}

/// How long the tests of each group took; the first to need the stack waited
/// for it too.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<BTreeMap<String, Duration>>>);

/// Adds the time until it is dropped.
struct Running<'t>(&'t Times, String, Instant);

impl Times {
    fn of(&self, group: &str) -> Running<'_> {
        Running(self, group.to_owned(), Instant::now())
    }

    /// Prints them, the longest first.
    fn tell(&self) {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<_> = times.iter().collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        for (group, time) in times {
            println!("{:>6.1} min  {group}", time.as_secs_f64() / 60.0);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Self(times, group, begun) = self;
        let mut times = times.0.lock().unwrap_or_else(PoisonError::into_inner);
        *times.entry(std::mem::take(group)).or_default() += begun.elapsed();
    }
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
