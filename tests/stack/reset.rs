//! `reset`: nothing of the project is left, and nothing else is touched.

use serde_json::Value as Json;

use crate::{Test, support::Stack};

/// The tests. Nothing comes after them.
pub const TESTS: &[Test] = &[
    ("a_reset_off_a_terminal_wants_a_yes", wants_a_yes),
    ("a_reset_leaves_nothing_of_the_project", leaves_nothing),
];

fn wants_a_yes(stack: &Stack) {
    stack.fanout.run(&["reset"]).ends_with(6).says("--yes");
    let plan = stack.fanout.run(&["reset", "--dry-run"]).ends_with(0);
    plan.says(stack.file("").display().to_string().trim_end_matches('/'));
    assert!(stack.file("state.json").exists());
}

fn leaves_nothing(stack: &Stack) {
    let processes = stack.processes();
    assert!(!processes.is_empty());
    let reset = stack.fanout.run(&["reset", "--yes"]).ends_with(0);
    let left: Vec<_> = processes.iter().filter(|one| one.is_alive()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", reset.evidence());
    assert!(!stack.file("").exists(), "{}", reset.evidence());
    let status = stack.status();
    let services = status["services"].as_array().expect("services");
    assert!(
        services.iter().all(|service| service["pid"] == Json::Null),
        "{status:#}"
    );
    stack.fanout.run(&["reset", "--yes"]).ends_with(0);
}
