//! Runs tests that share one stack, in order.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Trial};

/// A test of a stack: its name and its function.
pub type Test<S> = (&'static str, fn(&S));

/// The stack that all tests share.
pub trait Subject {
    /// Returns the state of the stack, shown when a test fails.
    fn evidence(&self) -> String;
}

/// Reason why a test was skipped.
struct Skipped(String);

/// Skips a test that cannot run on this machine. The test is reported as
/// ignored, with this reason.
pub fn skip(reason: &str) -> ! {
    resume_unwind(Box::new(Skipped(reason.to_owned())))
}

/// Runs the tests of every group. `stack` passes the shared stack to its
/// argument. If no stack can be started, it skips the test, so all tests are
/// reported as ignored.
pub fn run<S: Subject + 'static>(
    arguments: Arguments,
    groups: &[(&str, &'static [Test<S>])],
    stack: impl Fn(&dyn Fn(&S)) + Clone + Send + 'static,
) -> ExitCode {
    let arguments = Arguments {
        // The tests share the stack.
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
                let _timer = times.start(&group);
                let run = AssertUnwindSafe(|| stack(&|stack| run_test(stack, *test)));
                match catch_unwind(run) {
                    Ok(()) => Ok(Completion::Completed),
                    Err(failure) => match failure.downcast::<Skipped>() {
                        Ok(skipped) => Ok(Completion::ignored_with(skipped.0)),
                        Err(failure) => resume_unwind(failure),
                    },
                }
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    times.print();
    conclusion.exit_code()
}

/// Time spent in the tests of each group. The group that uses the stack first
/// includes the start of the stack.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<BTreeMap<String, Duration>>>);

/// Measures until it is dropped, then adds the time to the group.
struct Timer<'t>(&'t Times, String, Instant);

impl Times {
    fn start(&self, group: &str) -> Timer<'_> {
        Timer(self, group.to_owned(), Instant::now())
    }

    /// Prints the times, longest first.
    fn print(&self) {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<_> = times.iter().collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        for (group, time) in times {
            println!("{:>6.1} min  {group}", time.as_secs_f64() / 60.0);
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Self(times, group, start) = self;
        let mut times = times.0.lock().unwrap_or_else(PoisonError::into_inner);
        *times.entry(std::mem::take(group)).or_default() += start.elapsed();
    }
}

/// Runs a test. If it fails, prints the state of the stack as well.
fn run_test<S: Subject>(stack: &S, test: fn(&S)) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(stack))) {
        if !failure.is::<Skipped>() {
            eprintln!("{}", stack.evidence());
        }
        resume_unwind(failure);
    }
}
