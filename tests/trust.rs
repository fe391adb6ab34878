//! Untrusted input is not used: folders that other users can change, and
//! downloads other than the ones that fanout was tested with. Secrets are not
//! shown. These tests need no running server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test shows the evidence"
)]

mod support;

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown, lchown, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use support::{Ended, Fanout};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// Part of every secret in these tests.
const MARK: &str = "canary7f3a";

#[track_caller]
fn assert_no_secret(ended: Ended) -> Ended {
    let has_secret = ended.stdout.contains(MARK) || ended.stderr.contains(MARK);
    assert!(!has_secret, "{ended:#?}");
    ended
}

#[test]
fn a_mistake_in_the_configuration_is_reported_without_secrets() {
    let url = format!("postgres://app:{MARK}@127.0.0.1:1/app");
    for (text, message) in [
        (
            format!("redis:\n  url: redis://:{MARK}@h:1\n  uurl: x\n"),
            "line 3, column 3",
        ),
        (format!("redis: redis://:{MARK}@h:1\n"), "line 1, column 8"),
        (
            format!("redis: {{request_timeout_ms: {MARK}}}\n"),
            "line 1, column 29",
        ),
        (
            format!("postgres: {{url: \"http://app:{MARK}=1@h:1/d\"}}\n"),
            "postgres.url",
        ),
        (
            format!("postgres: {{url: \"postgres://app@h/d?x={MARK}\"}}\n"),
            "unknown option `x`",
        ),
        (format!("external: {{url: \"{MARK}\"}}\n"), "external.url"),
        (
            format!("kafka: {{brokers: \"app:{MARK}@h\"}}\n"),
            "kafka.brokers",
        ),
        (
            format!("postgres: {{url: \"{url}\"}}\nservices: {{redis: {{ports: {{x: 1}}}}}}\n"),
            "services.redis.ports.x",
        ),
    ] {
        let fanout = Fanout::new().config(&text);
        for output in ["human", "json"] {
            let ended = fanout.run(&["--output", output, "config", "check"]).with(2);
            assert_no_secret(ended).says(message);
        }
    }
}

#[test]
fn a_mistake_in_the_environment_is_reported_without_its_value() {
    for (variable, message) in [
        ("FANOUT_CONNECTOR_PROPERTIES", "connector.properties"),
        (
            "FANOUT_REDIS_REQUEST_TIMEOUT_MS",
            "redis.request_timeout_ms",
        ),
        ("FANOUT_EXTERNAL_URL", "external.url"),
    ] {
        let fanout = Fanout::new().env(variable, &format!("database.password={MARK}"));
        assert_no_secret(fanout.run(&["config", "check"]).with(2)).says(message);
    }
    let fanout = Fanout::new();
    let state = fanout.home().join("fanout/state.json");
    fs::create_dir_all(state.parent().expect("a folder")).expect("create the folder");
    fs::write(&state, format!(r#"{{"format": "{MARK}"}}"#)).expect("write the file");
    assert_no_secret(fanout.run(&["status"]).with(3)).says("line 1");
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let text = format!(
        r#"
external:
  url: "https://{MARK}@h/x?api_key={MARK}&k={MARK}"
  events_path: "/events?sig={MARK}"
connector:
  properties: {{ssl.key.passphrase: "{MARK}", poll.interval.ms: "20"}}
services:
  redis: {{env: {{API_CREDENTIAL: "{MARK}", STRIPE_API_KEY: "{MARK}", TZ: UTC}}}}
"#
    );
    let fanout = Fanout::new().stopped(&[("redis", 1)]).config(&text);
    for output in ["human", "json"] {
        let ended = fanout.run(&["--output", output, "config", "show"]).with(0);
        assert_no_secret(ended)
            .says("https://****@h/x?api_key=****&k=****")
            .says("poll.interval.ms")
            .says("UTC");
        assert_no_secret(fanout.run(&["--output", output, "env"]).with(0));
    }
    let shown = fanout.run(&["--output", "json", "config", "show"]).json();
    let values = shown["values"].as_array().expect("values");
    let properties = values
        .iter()
        .find(|value| value["key"] == "connector.properties");
    assert_eq!(
        properties.expect("the properties")["value"]["ssl.key.passphrase"],
        "****"
    );
    let shown = fanout.run(&["env", "--show-secrets"]).with(0);
    assert!(shown.stdout.contains(MARK), "{shown:#?}");
}

#[test]
fn a_failed_connection_shows_no_secret() {
    let fanout = Fanout::new()
        .config("services: {stub: {runtime: external}, redis: {runtime: external}}\n")
        .env(
            "FANOUT_EXTERNAL_URL",
            &format!("http://app:{MARK}@127.0.0.1:1/x?token={MARK}"),
        )
        .env(
            "FANOUT_REDIS_URL",
            &format!("redis://app:{MARK}@127.0.0.1:1"),
        );
    for service in ["stub", "redis"] {
        let ended = fanout.run(&["up", service, "--timeout", "1s"]).with(4);
        assert_no_secret(ended).says("127.0.0.1:1").says("****");
    }
}

#[test]
fn a_home_that_other_users_can_change_is_not_used() {
    let fanout = Fanout::new();
    fs::create_dir(fanout.home()).expect("create the folder");
    fs::set_permissions(fanout.home(), fs::Permissions::from_mode(0o777)).expect("set the mode");
    for command in [["status"], ["up"], ["down"], ["reset"]] {
        fanout
            .run(&command)
            .with(3)
            .says("cannot be used: others may write to it (mode 777)")
            .says("hint: use a folder of your own: FANOUT_HOME=<folder> fanout …");
    }
    fs::set_permissions(fanout.home(), fs::Permissions::from_mode(0o755)).expect("set the mode");
    let down = fanout.run(&["down"]).with(6);
    down.says("project fanout has never been started");
}

#[test]
fn a_link_of_another_user_in_place_of_a_project_is_not_followed() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can create a link of another user.
        return;
    }
    let fanout = Fanout::new();
    let elsewhere = fanout.home().with_file_name("elsewhere");
    fs::create_dir_all(&elsewhere).expect("create the folder");
    fs::create_dir(fanout.home()).expect("create the folder");
    let link = fanout.home().join("fanout");
    symlink(&elsewhere, &link).expect("create the link");
    lchown(&link, Some(NOBODY), None).expect("change the owner");
    fanout
        .run(&["status"])
        .with(3)
        .says("it is a symbolic link owned by user nobody");
    let port = "services: {redis: {ports: {main: 1}}}\n";
    let fanout = fanout.config(port);
    fanout
        .run(&["up", "redis"])
        .with(3)
        .says("it is a symbolic link owned by user nobody");
    assert_eq!(
        fs::read_dir(&elsewhere).expect("read the folder").count(),
        0
    );
}

#[test]
fn a_folder_that_server_configurations_cannot_contain_is_rejected() {
    let fanout = Fanout::new();
    let home = fanout.home().join("a,b");
    let fanout = fanout.env("FANOUT_HOME", home.to_str().expect("utf-8"));
    let ended = fanout.run(&["up", "redis", "--ports", "auto"]).with(3);
    ended
        .says("a,b contains `,`, which the configuration files of servers do not allow")
        .says("hint: use folders without it: FANOUT_HOME=<folder>");
    assert!(!home.join("fanout/state.json").exists());
}

/// Only root can run fanout as another user without a home folder.
#[test]
fn a_user_without_a_home_gets_only_a_folder_that_they_own() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can become another user.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mode = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(folder.path(), mode).expect("set the mode");
    // The build folder may be closed to other users.
    let program = folder.path().join("fanout");
    fs::copy(env!("CARGO_BIN_EXE_fanout"), &program).expect("copy the binary");
    let home = folder.path().join(format!("fanout-{NOBODY}"));
    let run = || {
        let output = Command::new(&program)
            .args(["--runtime", "native", "up", "--dry-run", "stub"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", folder.path())
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .expect("run fanout");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    let assert_refused = |reason: &str| {
        let (code, stderr) = run();
        let hint = "hint: use a folder of your own: FANOUT_HOME=<folder> fanout …";
        assert!(
            code == Some(3) && stderr.contains(reason) && stderr.contains(hint),
            "{code:?} {stderr}"
        );
    };
    fs::create_dir(&home).expect("create the folder");
    assert_refused("it belongs to user root");
    fs::remove_dir(&home).expect("remove it");
    symlink("/var/tmp", &home).expect("create the link");
    assert_refused("it belongs to user root");
    lchown(&home, Some(4_000), None).expect("change the owner");
    assert_refused("it is a symbolic link owned by user 4000");
    fs::remove_file(&home).expect("remove it");
    fs::write(&home, "").expect("write the file");
    chown(&home, Some(NOBODY), None).expect("change the owner");
    assert_refused("it is not a folder");
    fs::remove_file(&home).expect("remove it");

    assert_eq!(run().0, Some(0), "{}", run().1);
    let mode = fs::metadata(&home)
        .expect("read the metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// Writes a script that replaces a program of the machine.
fn write_program(folder: &Path, name: &str, script: &str) {
    fs::create_dir_all(folder).expect("create the folder");
    let path = folder.join(name);
    fs::write(&path, script).expect("write the file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set the mode");
}

#[test]
fn a_modified_jar_is_not_installed() {
    let fanout = Fanout::new();
    let bin = fanout.home().with_file_name("bin");
    // Simulates a compromised mirror, which also serves the checksums that
    // Maven checks.
    let script = "#!/bin/sh
for argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=} ;; esac; done
mkdir -p \"$folder\"
echo evil >\"$folder/kafka_2.13-4.3.0.jar\"
";
    write_program(&bin, "mvn", script);
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").expect("a path")
    );
    let fanout = fanout.env("PATH", &path);
    let ended = fanout.run(&["up", "kafka", "--ports", "auto"]).with(3);
    ended
        .says("kafka was downloaded but failed verification: ")
        .says("hint: find out who changed the file");
    let cache = fanout.home().with_file_name("cache").join("native");
    assert!(!cache.join("kafka-4.3.0").exists());
}

/// Creates wheels with the expected names and versions but different content.
const WHEELS: &str = r#"
import sys, zipfile
for name, version in (line.split("==") for line in sys.argv[2:]):
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    with zipfile.ZipFile(f"{sys.argv[1]}/{plain}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{plain}.py", "print('evil')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{plain}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
"#;

#[test]
fn a_modified_wheel_is_not_installed() {
    let fanout = Fanout::new();
    let wheels = fanout.home().with_file_name("wheels");
    fs::create_dir(&wheels).expect("create the folder");
    let requirements = include_str!("../stack/native/requirements.txt");
    let pinned = requirements
        .lines()
        .filter(|line| !line.starts_with(['#', ' ']))
        .filter_map(|line| line.split_whitespace().next());
    let status = Command::new("python3")
        .args(["-c", WHEELS])
        .arg(&wheels)
        .args(pinned)
        .status();
    assert!(status.expect("run python").success());
    let fanout = fanout
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", wheels.to_str().expect("utf-8"));
    let ended = fanout.run(&["up", "clickhouse", "--ports", "auto"]).with(3);
    ended
        .says("chdb could not be installed: ")
        .says("DO NOT MATCH THE HASHES");
    let cache = fanout.home().with_file_name("cache").join("native");
    assert!(!cache.join("chdb-26.9.0").exists());
}
