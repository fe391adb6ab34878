//! `reset`: nothing of the project is left, and nothing else is touched.

use std::{fs::File, process::Stdio};

use crate::{
    Test,
    support::{Stack, eventually},
};

/// The tests. Nothing comes after them.
pub const TESTS: &[Test] = &[
    ("a_reset_off_a_terminal_wants_a_yes", wants_a_yes),
    ("two_at_once_are_refused", two_at_once),
    (
        "a_reset_killed_midway_is_finished_and_leaves_nothing",
        leaves_nothing,
    ),
];

fn wants_a_yes(stack: &Stack) {
    stack.fanout.run(&["reset"]).ends_with(6).says("--yes");
    let plan = stack.fanout.run(&["reset", "--dry-run"]).ends_with(0);
    plan.says(stack.file("").display().to_string().trim_end_matches('/'));
    assert!(stack.file("state.json").exists());
}

fn two_at_once(stack: &Stack) {
    let lock = File::options()
        .write(true)
        .open(stack.file("lock"))
        .expect("up made it");
    lock.try_lock().expect("free");
    let refused = stack.fanout.run(&["reset", "--yes"]).ends_with(6);
    refused.says("project fanout is being changed by");
    assert!(stack.file("state.json").exists());
}

/// Kills a reset as soon as it has begun: what is half gone is not brought up
/// again.
fn kill_midway(stack: &Stack) {
    let mut reset = stack
        .fanout
        .command(&["reset", "--yes"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    eventually("it has begun", || {
        let begun = stack.file("reset.json").exists();
        begun.then_some(()).ok_or_else(|| "not yet".to_owned())
    });
    reset.kill().expect("it was there");
    let status = reset.wait().expect("it ends");
    assert_eq!(status.code(), None, "it ended before it was killed");
    let refused = stack.fanout.run(&["up"]).ends_with(6);
    refused.says("hint: fanout reset");
}

fn leaves_nothing(stack: &Stack) {
    let processes = stack.processes();
    assert!(!processes.is_empty());
    kill_midway(stack);
    let reset = stack.fanout.run(&["reset", "--yes"]).ends_with(0);
    let left: Vec<_> = processes.iter().filter(|one| one.is_alive()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", reset.evidence());
    assert!(!stack.file("").exists(), "{}", reset.evidence());
    for command in [&["status"][..], &["reset", "--yes"]] {
        let refused = stack.fanout.run(command).ends_with(6);
        refused.says("project fanout was never brought up");
    }
}
