//! Tests the exit codes, streams and documents of the commands without any
//! running server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test shows the evidence"
)]

#[path = "command_line/confirmations.rs"]
mod confirmations;
#[path = "command_line/mistakes.rs"]
mod mistakes;
#[path = "command_line/reach.rs"]
mod reach;
mod support;

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    process::Stdio,
    time::{Duration, Instant},
};

use support::Fanout;

/// Binds a free port of this process.
fn bound_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// Returns a configuration with Redis on this port. Redis is the only service
/// without an installation.
fn redis_on(port: u16) -> String {
    format!("services: {{redis: {{ports: {{main: {port}}}}}}}\n")
}

#[test]
fn a_dry_run_of_a_new_project_plans_every_service_in_order_and_changes_nothing() {
    let fanout = Fanout::new();
    let ended = fanout.run(&["up", "--dry-run"]).with(0);
    let services: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.ends_with("native   create"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let position = |name| services.iter().position(|service| *service == name);
    assert_eq!(services.len(), 7, "{ended:#?}");
    assert!(position("kafka") < position("connect"));
    assert_eq!(services.last(), Some(&"pipeline"));
    assert!(!fanout.home().exists());
}

#[test]
fn a_selected_service_starts_with_its_dependencies() {
    let plan = |arguments: &[&str]| {
        let document = Fanout::new().run(arguments).with(0).json();
        let steps = document["plan"].as_array().expect("steps").clone();
        let names = steps
            .iter()
            .map(|step| step["service"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let connect = plan(&["up", "connect", "--dry-run", "--output", "json"]);
    assert_eq!(connect, ["kafka", "postgres", "connect"]);
    let all = plan(&["up", "--no-run", "--dry-run", "--output", "json"]);
    assert!(!all.contains(&"pipeline".to_owned()));
}

#[test]
fn an_unknown_service_is_a_usage_error() {
    let message = "unknown service \"kafak\", expected one of clickhouse, ";
    for command in ["up", "down", "logs"] {
        let ended = Fanout::new().run(&[command, "kafak"]).with(2);
        ended.says(message).says("(did you mean \"kafka\"?)");
    }
    let fanout = Fanout::new().config("services: {kafak: {runtime: external}}\n");
    fanout
        .run(&["up", "--dry-run"])
        .with(2)
        .says(&format!("services.kafak: {message}"));
}

#[test]
fn a_port_in_use_is_reported_with_its_process_before_anything_changes() {
    let (_listener, port) = bound_port();
    let fanout = Fanout::new().config(&redis_on(port));
    let ended = fanout.run(&["up", "redis"]).with(3);
    let holder = fs::read_to_string("/proc/self/comm").expect("a name");
    let expected = format!(
        "error: port {port}, needed by redis, is in use by pid {} ({})\n\nhint: fanout up redis --ports auto\n",
        std::process::id(),
        holder.trim()
    );
    assert_eq!(ended.stderr, expected);
    assert_eq!(ended.stdout, "");
    assert!(!fanout.home().join("fanout/state.json").exists());
}

#[test]
fn a_port_of_two_services_is_a_usage_error() {
    let fanout = Fanout::new()
        .config("services: {redis: {ports: {main: 7001}}, stub: {ports: {main: 7001}}}\n");
    let ended = fanout.run(&["up", "redis", "stub", "--dry-run"]).with(2);
    ended.says("port 7001 is assigned to both redis and stub");
}

#[test]
fn a_server_on_another_host_must_be_external() {
    let fanout = Fanout::new().env("FANOUT_REDIS_URL", "redis://cache.example:6379");
    let ended = fanout.run(&["up", "redis", "--dry-run"]).with(2);
    ended
        .says("redis.url is on cache.example, but redis runs on this machine")
        .says("hint: in fanout.yaml: services: {redis: {runtime: external}}");
}

#[test]
fn all_missing_programs_are_reported_together() {
    let fanout = Fanout::new().env("PATH", "/nonexistent");
    let ended = fanout.run(&["up"]).with(3);
    let ended = ["java", "mvn", "python3", "redis-server"]
        .iter()
        .fold(ended, |ended, program| {
            ended.says(&format!("{program} is missing"))
        });
    ended
        .says("hint: on Debian: apt-get install")
        .says("openjdk-17-jre-headless");
    assert!(!fanout.home().join("fanout/state.json").exists());
}

#[test]
fn an_unreachable_engine_is_reported_with_both_remedies() {
    let fanout = Fanout::new().env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    for arguments in [["--runtime", "docker", "up"], ["--runtime", "auto", "up"]] {
        let ended = fanout.run(&arguments).with(3);
        ended
            .says("unix:///nowhere/docker.sock (DOCKER_HOST): ")
            .says("hint: start it (systemctl start docker) or use another (--docker-host")
            .says("fanout --runtime native up");
    }
    let remote_engine = [
        "--docker-host",
        "ssh://somewhere",
        "--runtime",
        "docker",
        "up",
    ];
    fanout
        .run(&remote_engine)
        .with(3)
        .says("ssh://somewhere")
        .says("run fanout there");
    assert!(!fanout.home().join("fanout/state.json").exists());
}

#[test]
fn an_unreachable_external_service_is_reported() {
    let (listener, port) = bound_port();
    drop(listener);
    let fanout = Fanout::new()
        .config("services: {redis: {runtime: external}}\n")
        .env("FANOUT_REDIS_URL", &format!("redis://127.0.0.1:{port}"));
    let started = Instant::now();
    let ended = fanout.run(&["up", "redis", "--timeout", "1s"]).with(4);
    ended
        .says("redis, an external service at redis://127.0.0.1")
        .says("Connection refused");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn stopping_a_stopped_service_succeeds() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    let ended = fanout.run(&["down"]).with(0);
    assert_eq!(ended.stdout, "nothing is running\n");
    let ended = fanout.run(&["down", "redis"]).with(0);
    assert_eq!(ended.stdout, "redis is not running\n");
    fanout.run(&["reset", "--yes"]).with(0);
    for command in ["down", "reset"] {
        let ended = fanout.run(&[command]).with(6);
        ended.says("project fanout has never been started");
    }
    assert!(!fanout.home().join("fanout").exists());
}

#[test]
fn reset_requires_a_flag_if_it_cannot_ask() {
    let fanout = Fanout::new();
    let file = fanout.home().join("fanout/data/redis/dump");
    fs::create_dir_all(file.parent().expect("a folder")).expect("create the folder");
    fs::write(&file, "kept").expect("write the file");
    let ended = fanout.run(&["reset"]).with(6);
    let ended = ended.says("hint: fanout reset --yes");
    ended.says(&fanout.home().join("fanout").display().to_string());
    fanout.run(&["reset", "--dry-run"]).with(0).says("folder");
    assert!(file.exists());
    let document = fanout
        .run(&["reset", "--yes", "--output", "json"])
        .with(0)
        .json();
    assert_eq!(document["schema"], "fanout.reset/v1");
    let folder = fanout.home().join("fanout").display().to_string();
    assert_eq!(document["removed"]["folder"], folder);
    assert_eq!(document["removed"]["external"], serde_json::json!([]));
    assert!(!fanout.home().join("fanout").exists());
}

#[test]
fn reset_removes_a_project_with_an_unreadable_state() {
    let fanout = Fanout::new();
    fs::create_dir_all(fanout.home().join("fanout")).expect("create the folder");
    fs::write(fanout.home().join("fanout/state.json"), "{").expect("write the file");
    fanout
        .run(&["env"])
        .with(3)
        .says("is not a valid project state")
        .says("hint: fanout reset");
    fanout.run(&["reset", "--yes"]).with(0);
    fanout.run(&["env"]).with(6);
}

#[test]
fn a_project_is_changed_by_one_command_at_a_time() {
    let (listener, port) = bound_port();
    drop(listener);
    let fanout = Fanout::new()
        .config("services: {redis: {runtime: external}}\n")
        .env("FANOUT_REDIS_URL", &format!("redis://127.0.0.1:{port}"));
    // This command locks the project while it waits for a Redis that never
    // starts.
    let mut first = fanout
        .command(&["up", "redis"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start fanout");
    let state = fanout.home().join("fanout/state.json");
    let started = Instant::now();
    while !state.exists() && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let locked = format!("project fanout is being changed by pid {}", first.id());
    for command in [&["up", "redis"][..], &["down"], &["reset", "--yes"]] {
        fanout.run(command).with(6).says(&locked);
    }
    fanout.run(&["--project", "other", "down"]).with(6);
    first.kill().expect("kill fanout");
    first.wait().expect("wait for fanout");
    fanout.run(&["down"]).with(0);
}

#[test]
fn a_project_keeps_its_runtime() {
    let fanout = Fanout::new();
    fs::create_dir_all(fanout.home().join("fanout")).expect("create the folder");
    let state = r#"{"format": 1, "project": "fanout", "runtime": "native"}"#;
    fs::write(fanout.home().join("fanout/state.json"), state).expect("write the file");
    let ended = fanout.run(&["--runtime", "docker", "up"]).with(6);
    ended.says("project fanout was created with the native runtime, which cannot be changed");
}

#[test]
fn status_of_a_stopped_project_shows_a_hint_and_fails_only_with_check() {
    let (listener, port) = bound_port();
    drop(listener);
    let nowhere = format!("http://127.0.0.1:{port}");
    let fanout = Fanout::new()
        .env("FANOUT_HTTP_URL", &nowhere)
        .stopped(&[("redis", port)]);
    fanout.run(&["status"]).with(0).says("hint: fanout up");
    let ended = fanout
        .run(&["status", "--check", "--output", "json"])
        .with(5);
    let document = ended.json();
    assert_eq!(document["schema"], "fanout.status/v1");
    assert_eq!(document["ok"], false);
    assert_eq!(document["stuck"]["remedy"], "fanout up");
    let services = document["services"].as_array().expect("services");
    assert_eq!(services.len(), 7);
    for key in [
        "name",
        "runtime",
        "state",
        "url",
        "pid",
        "container",
        "since_ms",
        "problem",
    ] {
        assert!(
            services[0].get(key).is_some(),
            "{key} is missing in {document}"
        );
    }
}

#[test]
fn env_prints_shell_variables_and_masks_passwords() {
    let services = [("postgres", 7001), ("clickhouse", 7002), ("redis", 7003)];
    let fanout = Fanout::new().stopped(&services);
    let ended = fanout.run(&["env"]).with(0);
    assert!(
        ended
            .stdout
            .contains("FANOUT_CLICKHOUSE_URL='http://app:****@127.0.0.1:7002'")
    );
    assert!(!ended.stdout.contains("app:app"));
    // A service that the project does not have is not replaced by a default.
    assert!(!ended.stdout.contains("FANOUT_KAFKA_BROKERS"), "{ended:#?}");
    let lines = fanout.run(&["env", "--show-secrets"]).with(0).stdout;
    let variables = "$FANOUT_POSTGRES_URL $FANOUT_CLICKHOUSE_DATABASE $FANOUT_BOARD_KEY";
    let script = format!("{lines}\nprintf %s \"{variables}\"");
    let shell = std::process::Command::new("sh")
        .args(["-c", &script])
        .output();
    let values = String::from_utf8(shell.expect("a shell").stdout).expect("text");
    assert_eq!(
        values,
        "postgres://app:app@127.0.0.1:7001/app analytics top10m"
    );
    let document = fanout.run(&["env", "--output", "json"]).with(0).json();
    let variables = document["variables"].as_array().expect("variables");
    let kafka = variables
        .iter()
        .find(|variable| variable["name"] == "FANOUT_KAFKA_BROKERS");
    assert!(kafka.expect("the variable is listed")["value"].is_null());
}

#[test]
fn a_log_is_shown_with_its_service_and_without_control_characters() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    let logs = fanout.home().join("fanout/logs");
    fs::create_dir_all(&logs).expect("create the folder");
    let redis = "7:M 24 Nov 2025 00:00:02.000 * second\n";
    let kafka = "2025-11-24T00:00:01.000Z INFO first\n2025-11-24T00:00:03.000Z \x1b[31mthird\n";
    fs::write(logs.join("redis.log"), redis).expect("write the file");
    fs::write(logs.join("kafka.log"), kafka).expect("write the file");
    let ended = fanout.run(&["logs"]).with(0);
    assert_eq!(
        ended.stdout,
        "kafka      | 2025-11-24T00:00:01.000Z INFO first\n\
         redis      | 7:M 24 Nov 2025 00:00:02.000 * second\n\
         kafka      | 2025-11-24T00:00:03.000Z \\u{1b}[31mthird\n"
    );
    let tail = fanout.run(&["logs", "kafka", "--tail", "1"]).with(0);
    assert_eq!(tail.stdout.lines().count(), 1);
    let since = fanout
        .run(&["logs", "--since", "2025-11-24T00:00:02Z"])
        .with(0);
    assert_eq!(since.stdout.lines().count(), 2);
}

#[test]
fn a_followed_log_continues_until_it_is_interrupted() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    let logs = fanout.home().join("fanout/logs");
    fs::create_dir_all(&logs).expect("create the folder");
    let mut follow = fanout
        .command(&["logs", "redis", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start fanout");
    fs::write(logs.join("redis.log"), "1:M hello\n").expect("write the file");
    let mut stdout = follow.stdout.take().expect("a pipe");
    let mut line = vec![0; "redis | 1:M hello\n".len()];
    stdout.read_exact(&mut line).expect("a line");
    assert_eq!(line, b"redis | 1:M hello\n");
    let pid = follow.id().to_string();
    let signal = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(signal.expect("kill runs").success());
    assert_eq!(follow.wait().expect("wait for fanout").code(), Some(0));
}

#[test]
fn a_failure_is_also_one_document() {
    let document = Fanout::new()
        .run(&["up", "kafak", "--output", "json"])
        .with(2)
        .json();
    assert_eq!(document["schema"], "fanout.up/v1");
    assert_eq!(document["ok"], false);
    assert_eq!(document["error"]["code"], "unknown_service");
    assert_eq!(document["error"]["hint"], "fanout config show");
}

#[test]
fn a_usage_error_is_also_one_document() {
    let mistakes: [(&[&str], &str, &str); 4] = [
        (&["--output", "json", "up", "--ports", "no"], "up", "'no'"),
        (&["up", "--ports=no", "--output=json"], "up", "'no'"),
        (&["--output", "json", "upp"], "usage", "'upp'"),
        (
            &["--output", "json", "seed", "--events"],
            "seed",
            "'--events <EVENTS>'",
        ),
    ];
    for (arguments, command, culprit) in mistakes {
        let document = Fanout::new().run(arguments).with(2).json();
        assert_eq!(document["schema"], format!("fanout.{command}/v1"));
        assert_eq!(document["ok"], false);
        assert_eq!(document["error"]["code"], "usage");
        let message = document["error"]["message"].as_str().expect("a message");
        assert!(message.contains(culprit), "{document}");
    }
    let ended = Fanout::new().run(&["up", "--ports", "no"]).with(2);
    assert_eq!(ended.stdout, "");
    ended.says("error: invalid value 'no'");
}

#[test]
fn a_usage_error_lists_missing_arguments_and_has_a_hint() {
    let document = Fanout::new()
        .run(&["--output", "json", "peek"])
        .with(2)
        .json();
    assert_eq!(
        document["error"]["message"],
        "the following required arguments were not provided: <PLACE>"
    );
    let ended = Fanout::new().run(&["peek"]).with(2);
    ended.says("hint: fanout peek --help");
}

#[test]
fn every_hint_includes_the_project() {
    let blue = |arguments: &[&str]| {
        let mut with_project = vec!["--project", "blue"];
        with_project.extend(arguments);
        Fanout::new().run(&with_project)
    };
    blue(&["up", "kafak"])
        .with(2)
        .says("hint: fanout --project blue config show");
    let document = blue(&["status", "--output", "json"]).with(6).json();
    assert_eq!(document["error"]["hint"], "fanout --project blue up");
    blue(&["status"])
        .with(6)
        .says("hint: fanout --project blue up");
}

#[test]
fn a_closed_stderr_does_not_panic_and_a_closed_stdout_keeps_the_exit_code() {
    let fanout = Fanout::new();
    let run = |script: &str| {
        let path = env!("CARGO_BIN_EXE_fanout");
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &script.replace("FANOUT", path)]);
        let home = fanout.home();
        let output = shell.env("FANOUT_HOME", home).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(run("FANOUT up kafak 2>&-; echo $?"), "2");
    assert_eq!(run("FANOUT config show | true; echo ${PIPESTATUS[0]}"), "0");
    let check = "FANOUT status --check --output json | true; echo ${PIPESTATUS[0]}";
    assert_eq!(run(check), "6");
    assert_eq!(
        run("FANOUT config show 2>/dev/null >/dev/full; echo $?"),
        "3"
    );
    assert_eq!(run("FANOUT --help >/dev/full; echo $?"), "3");
}

#[test]
fn no_secret_is_shown() {
    let fanout = Fanout::new().config(
        "connector: {properties: {database.password: geheim}}\n\
         postgres: {url: 'host=127.0.0.1 port=5432 user=app password=geheim dbname=app'}\n",
    );
    for arguments in [
        &["config", "show"][..],
        &["config", "show", "--output", "json"],
    ] {
        let ended = fanout.run(arguments).with(0).says("****");
        assert!(!ended.stdout.contains("geheim"), "{ended:#?}");
    }
    let fanout = Fanout::new().env("FANOUT_CLICKHOUSE_URL", "ftp://app:geheim@127.0.0.1");
    let ended = fanout.run(&["verify"]).with(2);
    assert!(!ended.stderr.contains("geheim"), "{ended:#?}");
}

#[test]
fn config_show_lists_the_defaults_if_the_configuration_is_invalid() {
    let fanout = Fanout::new().env("FANOUT_BORD_KEY", "x");
    let ended = fanout.run(&["config", "show"]).with(2).says("board.key");
    ended.says("error: environment variable FANOUT_BORD_KEY matches no setting");
}

#[test]
fn config_check_rejects_what_every_command_rejects() {
    for (config, message) in [
        (
            "services: {kafak: {runtime: external}}",
            "services.kafak: unknown service",
        ),
        (
            "services: {kafka: {ports: {extra: 1}}}",
            "services.kafka.ports.extra: unknown port",
        ),
        ("connect: {url: 'nowhere'}", "connect.url is no URL"),
        (
            "postgres: {url: 'postgres://h:port/x'}",
            "postgres.url cannot be read",
        ),
    ] {
        let fanout = Fanout::new().config(&format!("{config}\n"));
        fanout.run(&["config", "check"]).with(2).says(message);
        fanout.run(&["status"]).with(2).says(message);
        fanout.run(&["config", "show"]).with(0);
    }
}

#[test]
fn invalid_utf_8_is_an_error_only_in_a_variable_of_fanout() {
    use std::os::unix::ffi::OsStrExt as _;
    let invalid = std::ffi::OsStr::from_bytes(b"\xff");
    let run_with = |name: &str| {
        let fanout = Fanout::new();
        let mut command = fanout.command(&["config", "check"]);
        let output = command.env(name, invalid).output().expect("run fanout");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(run_with("LS_COLORS").0, Some(0));
    let (code, stderr) = run_with("FANOUT_BOARD_KEY");
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("FANOUT_BOARD_KEY is not valid UTF-8"),
        "{stderr}"
    );
}

#[test]
fn reset_lists_what_it_removes_even_if_it_does_not_ask() {
    let fanout = Fanout::new();
    let folder = fanout.home().join("fanout/data");
    for arguments in [&["reset", "-q"][..], &["reset", "--yes"]] {
        fs::create_dir_all(&folder).expect("create the folder");
        let ended = fanout.run(arguments);
        let listed = format!("folder    {}", fanout.home().join("fanout").display());
        assert!(ended.stderr.contains(&listed), "{ended:#?}");
    }
}

#[test]
fn logs_show_the_resolved_since() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    let since = ["logs", "--since", "2025-11-24T01:00:00+01:00"];
    let ended = fanout.run(&since).with(0);
    assert_eq!(ended.stderr, "since 2025-11-24T00:00:00.000000Z\n");
    let json = [&since[..], &["--output", "json"]].concat();
    let document = fanout.run(&json).with(0).json();
    assert_eq!(document["since"], "2025-11-24T00:00:00.000000Z");
}

#[test]
fn the_manual_page_includes_nested_commands() {
    let page = Fanout::new().run(&["man"]).with(0).stdout;
    assert!(
        page.contains("forget\\-offsets"),
        "connector apply is missing"
    );
}

#[test]
fn a_command_that_waits_for_a_server_exits_on_the_first_signal() {
    // The listener accepts connections and never responds.
    let (listener, port) = bound_port();
    let fanout = Fanout::new().env("FANOUT_KAFKA_BROKERS", &format!("127.0.0.1:{port}"));
    let mut peek = fanout
        .command(&["peek", "kafka"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start fanout");
    listener.set_nonblocking(true).expect("set the listener");
    let started = Instant::now();
    let _connection = loop {
        if let Ok(connection) = listener.accept() {
            break connection;
        }
        let ended = peek.try_wait().expect("poll fanout");
        assert!(ended.is_none() && started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    };
    let started = Instant::now();
    let kill = std::process::Command::new("kill")
        .args(["-TERM", &peek.id().to_string()])
        .status();
    assert!(kill.expect("kill runs").success());
    let code = peek.wait().expect("wait for fanout").code();
    assert_eq!(code, Some(143));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_invalid_backfill_is_a_usage_error() {
    for (arguments, message) in [
        (&["backfill"][..], "--from"),
        (&["backfill", "--from", "soon"], "invalid time"),
        (
            &["backfill", "--from", "2026-01-02T03:04:05"],
            "has no offset from UTC",
        ),
        (
            &["backfill", "--from", "1h", "--sinks", "bigquery"],
            "unknown sink \"bigquery\"",
        ),
        (
            &["backfill", "--from", "1h", "--prune"],
            "--prune compares clickhouse with postgres: it requires --source database",
        ),
        (
            &["backfill", "--from", "1h", "--source", "tape"],
            "possible values: log, database",
        ),
        (
            &["dlq", "replay", "seventeen"],
            "expected partition:offset, such as 0:17",
        ),
    ] {
        Fanout::new().run(arguments).with(2).says(message);
    }
}

#[test]
fn an_interrupted_reset_must_be_finished_before_up() {
    let fanout = Fanout::new();
    let project = fanout.home().join("fanout");
    fs::create_dir_all(&project).expect("a folder");
    let journal = r#"{"format": 1, "external": []}"#;
    fs::write(project.join("reset.json"), journal).expect("a journal");
    let refused = fanout.run(&["up", "redis"]).with(6);
    refused
        .says("a reset of project fanout has begun and is not done")
        .says("reset");
    fanout.run(&["reset", "--yes"]).with(0);
    assert!(!project.exists());
}
