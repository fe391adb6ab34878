//! A project without servers connects to none: a server on a default port, or
//! on a former port of the project, does not belong to the project.

use std::{io::ErrorKind, net::TcpListener};

use crate::{bound_port, support::Fanout};

/// Invocations of every command that connects to a server or inspects a
/// project.
const CALLS: [&[&str]; 24] = [
    &["down"],
    &["reset", "--yes"],
    &["status"],
    &["status", "--check"],
    &["logs"],
    &["logs", "-f"],
    &["env"],
    &["connector", "apply"],
    &["connector", "apply", "--forget-offsets", "--yes"],
    &["connector", "status"],
    &["connector", "pause"],
    &["connector", "delete", "--yes"],
    &["seed"],
    &["run"],
    &["run", "--sinks", "redis", "--until-idle"],
    &["smoke"],
    &["peek", "kafka"],
    &["leaderboard", "--watch"],
    &["backfill", "--from", "1h"],
    &[
        "backfill", "--from", "earliest", "--source", "database", "--prune",
    ],
    &["verify"],
    &["dlq", "ls"],
    &["dlq", "replay", "--yes"],
    &["dlq", "purge", "--yes"],
];

#[test]
fn a_project_that_was_never_brought_up_is_refused() {
    let fanout = Fanout::new();
    for call in CALLS {
        let line = [&["--project", "blue"], call].concat();
        let ended = fanout.run(&line).with(6);
        assert_eq!(ended.stdout, "", "{ended:#?}");
        assert_eq!(
            ended.stderr,
            "error: project blue has never been started\n\nhint: fanout --project blue up\n",
            "{call:?}"
        );
        let json = [&line[..], &["--output", "json"]].concat();
        let document = fanout.run(&json).with(6).json();
        assert_eq!(document["schema"], format!("fanout.{}/v1", call[0]));
        assert_eq!(document["error"]["code"], "never_up");
    }
    assert!(!fanout.home().exists(), "files were left behind");
}

#[test]
fn commands_that_need_no_server_run_without_a_project() {
    let fanout = Fanout::new();
    for (call, code) in [
        (&["config", "show"][..], 0),
        (&["config", "check"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["up", "--dry-run"], 0),
    ] {
        fanout.run(call).with(code);
    }
    // The doctor may report problems of the machine, but does not contact any
    // server.
    let doctor = fanout.run(&["doctor"]);
    assert!(matches!(doctor.code, Some(0 | 5)), "{doctor:#?}");
    doctor.says("project fanout has never been started: not checked");
}

#[test]
fn an_incomplete_configuration_is_rejected_with_the_missing_servers() {
    let url = "postgres://app:app@db.example/app";
    let fanout = Fanout::new().env("FANOUT_POSTGRES_URL", url);
    let ended = fanout.run(&["verify"]).with(6);
    let ended = ended.says("project fanout has no address for kafka: it has never been started");
    assert!(!ended.stderr.contains("for postgres"), "{ended:#?}");
    ended
        .says("clickhouse.url is not configured")
        .says("hint: fanout up, or set FANOUT_KAFKA_BROKERS and FANOUT_CONNECT_URL and ");
}

#[test]
fn a_store_without_a_sink_is_neither_started_nor_required() {
    let fanout = Fanout::new().env("FANOUT_PIPELINE_SINKS", "redis,http");
    let plan = fanout.run(&["up", "--dry-run", "--output", "json"]).with(0);
    let plan = plan.json();
    let steps = plan["plan"].as_array().expect("steps");
    let services: Vec<_> = steps.iter().map(|step| &step["service"]).collect();
    assert!(services.iter().any(|name| **name == "redis"), "{plan:#}");
    assert!(
        services.iter().all(|name| **name != "clickhouse"),
        "{plan:#}"
    );
    let url = "postgres://app:app@db.example/app";
    let fanout = fanout.env("FANOUT_POSTGRES_URL", url);
    for call in [
        &["verify"][..],
        &["smoke"],
        &["run"],
        &["leaderboard"],
        &["status"],
    ] {
        let ended = fanout.run(call).with(6);
        let ended = ended.says("it has never been started");
        assert!(!ended.stderr.contains("clickhouse"), "{ended:#?}");
    }
}

#[test]
fn a_connector_is_not_applied_without_the_kafka_that_stores_its_placeholder() {
    let fanout = Fanout::new()
        .env("FANOUT_CONNECT_URL", "http://connect.example:8083")
        .env("FANOUT_POSTGRES_URL", "postgres://app:app@db.example/app");
    let ended = fanout.run(&["connector", "apply"]).with(6);
    ended
        .says("project fanout has no address for kafka: it has never been started")
        .says("hint: fanout up, or set FANOUT_KAFKA_BROKERS\n");
}

#[test]
fn configured_servers_are_used() {
    let (listener, port) = bound_port();
    drop(listener);
    let fanout = Fanout::new().env(
        "FANOUT_POSTGRES_URL",
        &format!("postgres://app:app@127.0.0.1:{port}/app"),
    );
    fanout.run(&["seed"]).with(3).says("Connection refused");
}

#[test]
fn a_failed_review_of_a_new_project_leaves_no_record() {
    let (listener, port) = bound_port();
    drop(listener);
    let url = format!("postgres://app:app@127.0.0.1:{port}/app");
    let fanout = Fanout::new()
        .config("services: {postgres: {runtime: external}}\n")
        .env("FANOUT_POSTGRES_URL", &url);
    let ended = fanout.run(&["up", "postgres", "--timeout", "1s"]);
    assert!(!matches!(ended.code, Some(0 | 2)), "{ended:#?}");
    assert!(
        !fanout.home().join("fanout/state.json").exists(),
        "{ended:#?}"
    );
    fanout.run(&["logs"]).with(6).says("has never been started");
}

#[test]
fn a_port_in_the_file_does_not_make_a_server_part_of_the_project() {
    let (listener, port) = bound_port();
    let config = format!("services: {{postgres: {{ports: {{main: {port}}}}}}}\n");
    let fanout = Fanout::new().config(&config);
    fanout.run(&["seed"]).with(6).says("has never been started");
    assert_no_connection(&listener);
}

#[test]
fn a_foreign_server_on_the_port_of_a_stopped_one_is_not_contacted() {
    let (listener, port) = bound_port();
    let services = [
        "postgres",
        "kafka",
        "connect",
        "redis",
        "clickhouse",
        "stub",
    ];
    let fanout = Fanout::new().stopped(&services.map(|service| (service, port)));
    let holder = format!("is in use by pid {} (", std::process::id());
    for call in CALLS {
        // These commands only inspect the project, and report that it is
        // stopped.
        if ["down", "reset", "status", "logs", "env"].contains(&call[0]) {
            continue;
        }
        let ended = fanout.run(call).with(6);
        ended
            .says("of project fanout ")
            .says("not running")
            .says(&format!("port {port} of "))
            .says(&holder)
            .says("hint: fanout up\n");
    }
    let ended = fanout.run(&["status"]).with(0);
    ended
        .says("postgres is not running")
        .says("hint: fanout up");
    fanout
        .run(&["doctor"])
        .says("postgres of project fanout is not running");
    assert_no_connection(&listener);
}

/// Asserts that nothing has connected to this port.
fn assert_no_connection(listener: &TcpListener) {
    listener.set_nonblocking(true).expect("set the listener");
    // A connection stays in the queue, even if the client has closed it.
    match listener.accept() {
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        Ok((_, client)) => panic!("{client} has connected"),
    }
}

#[test]
fn a_stopped_server_is_reported_with_the_command_that_starts_it() {
    let (listener, port) = bound_port();
    drop(listener);
    let fanout = Fanout::new().stopped(&[("postgres", port)]);
    let ended = fanout.run(&["seed"]).with(6);
    assert_eq!(
        ended.stderr,
        "error: postgres of project fanout is not running\n\nhint: fanout up\n"
    );
}

#[test]
fn a_misspelt_project_suggests_the_existing_one() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    let ended = fanout.run(&["--project", "fanuot", "seed"]).with(6);
    ended.says("project fanuot has never been started (did you mean \"fanout\"?)");
}

#[test]
fn up_uses_the_ports_of_the_file() {
    let config = "services:\n  redis: {ports: {main: 7003}}\n  clickhouse: {ports: {main: 7002}}\n";
    let fanout = Fanout::new().config(config);
    let ended = fanout.run(&["config", "show"]).with(0);
    let line = |key: &str| {
        let mut lines = ended.stdout.lines();
        let line = lines.find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("{ended:#?}")).to_owned()
    };
    let redis = line("redis.url");
    assert!(redis.contains("redis://127.0.0.1:7003"), "{redis}");
    assert!(
        redis.ends_with("fanout.yaml (services.redis.ports)"),
        "{redis}"
    );
    let clickhouse = line("clickhouse.url");
    assert!(clickhouse.contains("@127.0.0.1:7002"), "{clickhouse}");
    let plan = fanout.run(&["up", "redis", "--dry-run", "--output", "json"]);
    assert_eq!(
        plan.with(0).json()["services"][0]["url"],
        "redis://127.0.0.1:7003"
    );
    // A configured URL must have the same port.
    let fanout = fanout.env("FANOUT_REDIS_URL", "redis://127.0.0.1:7004");
    let ended = fanout.run(&["up", "redis", "--dry-run"]).with(2);
    ended.says("services.redis.ports.main is 7003, but redis.url has port 7004");
    // A server that was brought up keeps its recorded port.
    let recorded = Fanout::new().config(config).stopped(&[("redis", 7005)]);
    let shown = recorded.run(&["config", "show"]).with(0);
    shown.says("redis://127.0.0.1:7005");
}
