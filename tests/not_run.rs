//! Tests that could not be run have not passed: how the script of the tests in
//! containers ends on machines that lack an engine.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

/// What the script itself is made of.
const TOOLS: [&str; 8] = [
    "bash", "dirname", "mktemp", "chmod", "rm", "tail", "grep", "xargs",
];

/// Runs the script where there is no docker, as this user, with these programs
/// besides and these arguments. Returns its exit code and what it said.
fn run(user: &str, programs: &[(&str, &str)], ci: bool, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for tool in TOOLS {
        let found = ["/bin", "/usr/bin"].map(|place| Path::new(place).join(tool));
        let found = found.iter().find(|path| path.exists()).expect("a tool");
        symlink(found, folder.path().join(tool)).expect("linked");
    }
    let id = format!("echo {user}");
    for (name, script) in programs.iter().chain(&[("id", id.as_str())]) {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker/run.sh");
    let mut command = Command::new("/bin/bash");
    command
        .arg(script)
        .args(arguments)
        .env_clear()
        .env("PATH", folder.path())
        .env("TMPDIR", folder.path());
    if ci {
        command.env("CI", "true");
    }
    let output = command.output().expect("bash");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("no signal"), said)
}

#[test]
fn a_developer_without_an_engine_is_told_that_nothing_was_run() {
    let (code, said) = run("1000", &[], false, &[]);
    assert_eq!(code, 77, "{said}");
    assert!(
        said.contains("NOT RUN: there is no docker command"),
        "{said}"
    );
    // A client alone is none either.
    let (code, said) = run("1000", &[("docker", "exit 1")], false, &[]);
    assert_eq!(code, 77, "{said}");
    assert!(
        said.contains("NOT RUN: no container engine answers"),
        "{said}"
    );
}

#[test]
fn where_the_tests_are_required_it_is_a_failure_that_they_cannot_be_run() {
    let apt: &[(&str, &str)] = &[("apt-get", "exit 100")];
    for (user, programs, ci, arguments) in [
        ("1000", &[][..], true, &[][..]),
        ("1000", &[], false, &["official"]),
        ("0", apt, false, &[]),
    ] {
        let (code, said) = run(user, programs, ci, arguments);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("FAILED, the tests could not be run"),
            "{said}"
        );
    }
}
