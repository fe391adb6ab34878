//! Destructive commands ask first, and the hint of a refusal confirms exactly
//! the refused command.

use std::fs;

use crate::{bound_port, support::Fanout};

/// Returns a project with an external Connect, Kafka and Postgres, all of them
/// unreachable.
fn with_external_servers() -> Fanout {
    let (listener, port) = bound_port();
    drop(listener);
    let postgres = format!("postgres://app:app@127.0.0.1:{port}/app");
    Fanout::new()
        .env("FANOUT_CONNECT_URL", &format!("http://127.0.0.1:{port}"))
        .env("FANOUT_KAFKA_BROKERS", &format!("127.0.0.1:{port}"))
        .env("FANOUT_POSTGRES_URL", &postgres)
}

#[test]
fn deleting_the_connector_or_its_position_requires_confirmation() {
    for (call, hint, action) in [
        (
            &["connector", "delete"][..],
            "hint: fanout connector delete --yes\n",
            "delete connector pg-engagement-cdc",
        ),
        (
            &["connector", "apply", "--forget-offsets"],
            "hint: fanout connector apply --forget-offsets --yes\n",
            "permanently delete the position of connector pg-engagement-cdc",
        ),
    ] {
        let ended = with_external_servers().run(call).with(6);
        ended
            .says(&format!("error: confirmation required to {action}\n"))
            .says(hint);
    }
}

#[test]
fn a_hint_repeats_all_arguments() {
    for (call, hint) in [
        (
            &[
                "--config",
                "my own.yaml",
                "connector",
                "delete",
                "--timeout",
                "5s",
            ][..],
            "fanout --project blue --config 'my own.yaml' connector delete --timeout 5s --yes",
        ),
        (
            &[
                "connector",
                "delete",
                "--project=blue",
                "--config=my own.yaml",
            ],
            "fanout connector delete --project=blue '--config=my own.yaml' --yes",
        ),
    ] {
        let fanout = with_external_servers().env("FANOUT_PROJECT", "blue");
        fs::create_dir_all(fanout.home()).expect("create the folder");
        fs::write(fanout.home().join("../my own.yaml"), "board: {key: x}\n")
            .expect("write the file");
        let ended = fanout.run(call).with(6);
        assert!(
            ended.stderr.ends_with(&format!("hint: {hint}\n")),
            "{hint}: {ended:#?}"
        );
    }
}

#[test]
fn a_hint_for_another_command_keeps_the_configuration() {
    let fanout = Fanout::new();
    fs::create_dir_all(fanout.home()).expect("create the folder");
    fs::write(fanout.home().join("../own.yaml"), "board: {key: x}\n").expect("write the file");
    let call = ["seed", "--config", "own.yaml", "--runtime", "native"];
    let ended = fanout.run(&call).with(6);
    ended.says("hint: fanout --config own.yaml --runtime native up\n");
}

#[test]
fn a_refusal_has_every_key_of_the_document() {
    let fanout = Fanout::new();
    let folder = fanout.home().join("fanout/data");
    fs::create_dir_all(&folder).expect("create the folder");
    // `json` checks the document against its schema.
    let document = fanout.run(&["reset", "--output", "json"]).with(6).json();
    assert_eq!(document["ok"], false);
    assert_eq!(document["error"]["code"], "not_confirmed");
    assert_eq!(
        document["error"]["hint"],
        "fanout reset --output json --yes"
    );
    assert!(document["removed"].is_null(), "{document}");
}

#[test]
fn a_success_has_every_key_of_the_document() {
    let fanout = Fanout::new().stopped(&[("redis", 1)]);
    for call in [
        &["up", "--dry-run"][..],
        &["down"],
        &["down", "--dry-run", "redis"],
        &["status"],
        &["logs"],
        &["env"],
        &["seed", "--dry-run"],
        &["config", "show"],
        &["completions", "fish"],
        &["man"],
        &["reset", "--dry-run"],
        &["reset", "--yes"],
    ] {
        let line = [call, &["--output", "json"]].concat();
        let fanout = match call[0] {
            "seed" => &with_external_servers(),
            _ => &fanout,
        };
        let document = fanout.run(&line).with(0).json();
        assert!(document["error"].is_null(), "{document}");
    }
}
