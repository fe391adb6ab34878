//! `reset` leaves nothing of the project and touches nothing else.

use std::{fs::File, process::Stdio};

use crate::{
    Test,
    support::{Stack, eventually},
};

/// The tests in execution order. They must run last.
pub const TESTS: &[Test] = &[
    (
        "a_reset_without_a_terminal_requires_confirmation",
        requires_confirmation,
    ),
    ("a_concurrent_reset_is_refused", concurrent_reset),
    (
        "a_reset_killed_midway_is_finished_and_leaves_nothing",
        leaves_nothing,
    ),
];

fn requires_confirmation(stack: &Stack) {
    stack.fanout.run(&["reset"]).ends_with(6).says("--yes");
    let plan = stack.fanout.run(&["reset", "--dry-run"]).ends_with(0);
    plan.says(stack.file("").display().to_string().trim_end_matches('/'));
    assert!(stack.file("state.json").exists());
}

fn concurrent_reset(stack: &Stack) {
    let lock = File::options()
        .write(true)
        .open(stack.file("lock"))
        .expect("open the lock file that up created");
    lock.try_lock().expect("take the lock");
    let refused = stack.fanout.run(&["reset", "--yes"]).ends_with(6);
    refused.says("project fanout is being changed by");
    assert!(stack.file("state.json").exists());
}

/// Kills a reset as soon as it has begun, and asserts that `up` refuses the
/// half-removed project.
fn kill_midway(stack: &Stack) {
    let mut reset = stack
        .fanout
        .command(&["reset", "--yes"])
        .stderr(Stdio::null())
        .spawn()
        .expect("start the binary");
    eventually("the reset has begun", || {
        let begun = stack.file("reset.json").exists();
        begun.then_some(()).ok_or_else(|| "not yet".to_owned())
    });
    reset.kill().expect("kill the reset");
    let status = reset.wait().expect("wait for the reset");
    assert_eq!(status.code(), None, "the reset ended before it was killed");
    let refused = stack.fanout.run(&["up"]).ends_with(6);
    refused.says("hint: fanout reset");
}

fn leaves_nothing(stack: &Stack) {
    let processes = stack.processes();
    assert!(!processes.is_empty());
    kill_midway(stack);
    let reset = stack.fanout.run(&["reset", "--yes"]).ends_with(0);
    let left: Vec<_> = processes
        .iter()
        .filter(|process| process.is_alive())
        .collect();
    assert!(left.is_empty(), "{left:?}\n{}", reset.evidence());
    assert!(!stack.file("").exists(), "{}", reset.evidence());
    for command in [&["status"][..], &["reset", "--yes"]] {
        let refused = stack.fanout.run(command).ends_with(6);
        refused.says("project fanout has never been started");
    }
}
