//! From one `up` to the next, and to the end.

use std::{thread, time::Duration};

use crate::{
    Test,
    stack::{Stack, docker, eventually},
};

/// The tests, in their order. The last one leaves nothing.
pub const TESTS: &[Test] = &[
    ("down_keeps_the_data", down),
    ("an_up_that_is_killed_is_run_again", killed_up),
    ("reset_removes_all_of_it_and_nothing_else", reset),
];

fn verifies(stack: &Stack) {
    eventually("every store agrees", || {
        let verify = stack.fanout.run(&["verify"]);
        match verify.code {
            Some(0) => Ok(()),
            _ => Err(verify.evidence()),
        }
    });
}

fn down(stack: &Stack) {
    let down = stack.fanout.run(&["down"]).ends_with(0);
    down.says(&format!("{}_postgres-17", stack.project));
    assert!(stack.ids().is_empty(), "{:?}", stack.ids());
    stack
        .fanout
        .run(&["down"])
        .ends_with(0)
        .says("nothing is running");
    let check = stack.fanout.run(&["status", "--check"]).ends_with(5);
    let hint = format!("hint: fanout --project {} up", stack.project);
    check.says("stopped").says(&hint);
    stack.up();
    verifies(stack);
}

fn killed_up(stack: &Stack) {
    stack.fanout.run(&["down"]).ends_with(0);
    for millis in [100, 400, 900, 2_500, 6_000] {
        let up = ["up", "--ports", "auto"];
        let mut child = stack.fanout.command(&up).spawn().expect("started");
        thread::sleep(Duration::from_millis(millis));
        child.kill().expect("it was there");
        child.wait().expect("waited for");
    }
    stack.up();
    verifies(stack);
}

fn reset(stack: &Stack) {
    stack
        .fanout
        .run(&["reset"])
        .ends_with(6)
        .says("reset --yes");
    let listed = stack.fanout.run(&["reset", "--dry-run"]).ends_with(0);
    listed
        .says(&format!("container {}", stack.container("redis")))
        .says(&format!("volume    {}_postgres-17", stack.project))
        .says(&format!("network   {}_default", stack.project));
    let bystander = format!("{}-bystander", stack.project);
    docker(&["volume", "create", &bystander]);
    stack.fanout.run(&["reset", "--yes"]).ends_with(0);
    let label = format!("label=com.docker.compose.project={}", stack.project);
    for kind in [&["ps", "-a"][..], &["volume", "ls"], &["network", "ls"]] {
        let mut words = kind.to_vec();
        words.extend(["-q", "--filter", &label]);
        assert_eq!(docker(&words), "", "{kind:?}");
    }
    docker(&["volume", "rm", &bystander]);
    let again = stack.fanout.run(&["reset", "--yes"]).ends_with(6);
    again.says("has never been started");
}
