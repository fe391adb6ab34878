//! Tests the exit codes of `tests/docker/run.sh` on machines without a
//! container engine: tests that could not run must not count as passed.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

/// Programs that the script itself uses.
const TOOLS: [&str; 8] = [
    "bash", "dirname", "mktemp", "chmod", "rm", "tail", "grep", "xargs",
];

/// Runs the script without docker, as this user, with these additional programs
/// and these arguments. Returns its exit code and stderr.
fn run(user: &str, programs: &[(&str, &str)], ci: bool, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for tool in TOOLS {
        let paths = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
        let path = paths.iter().find(|path| path.exists()).expect("a tool");
        symlink(path, folder.path().join(tool)).expect("link the tool");
    }
    let id = format!("echo {user}");
    for (name, script) in programs.iter().chain(&[("id", id.as_str())]) {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write the program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set the mode");
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
    let output = command.output().expect("run bash");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit code"), stderr)
}

#[test]
fn without_an_engine_the_script_reports_that_nothing_was_run() {
    let (code, stderr) = run("1000", &[], false, &[]);
    assert_eq!(code, 77, "{stderr}");
    assert!(
        stderr.contains("NOT RUN: the docker command is missing"),
        "{stderr}"
    );
    // A docker client without an engine is not enough.
    let (code, stderr) = run("1000", &[("docker", "exit 1")], false, &[]);
    assert_eq!(code, 77, "{stderr}");
    assert!(
        stderr.contains("NOT RUN: no container engine is running"),
        "{stderr}"
    );
}

#[test]
fn required_tests_that_cannot_run_are_a_failure() {
    let apt: &[(&str, &str)] = &[("apt-get", "exit 100")];
    for (user, programs, ci, arguments) in [
        ("1000", &[][..], true, &[][..]),
        ("1000", &[], false, &["official"]),
        ("0", apt, false, &[]),
    ] {
        let (code, stderr) = run(user, programs, ci, arguments);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("FAILED, cannot run the tests"), "{stderr}");
    }
}
