//! The commands that inspect a running stack: they show its actual state and
//! report what is broken.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::{Value as Json, json};
use url::Url;
use uuid::Uuid;

use crate::{
    Test,
    support::{Event, RunningCommand, Stack, Stub, accepted_by, check_equal, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("peek_shows_an_event_in_every_store", peek),
    (
        "peek_prints_an_equivalent_command_for_common_tools",
        equivalent_commands,
    ),
    (
        "the_leaderboard_is_explained_by_its_events",
        explained_board,
    ),
    (
        "a_watched_leaderboard_shows_changes_until_it_is_stopped",
        watched_board,
    ),
    ("a_read_only_redis_is_reported", read_only_redis),
    (
        "a_password_that_postgres_refuses_is_reported",
        refused_password,
    ),
    ("the_pipeline_serves_its_health_and_metrics", metrics),
    ("a_run_until_idle_ends_once_caught_up", until_idle),
    ("a_smoke_test_reports_the_first_broken_hop", broken_hop),
    (
        "doctor_passes_on_a_healthy_stack_and_finds_a_wrong_replica_identity",
        doctor,
    ),
];

/// Returns the items of `peek`.
fn items(stack: &Stack, place: &str) -> Vec<Json> {
    let report = stack.fanout.document(0, &["peek", place, "-n", "50"]);
    report["items"].as_array().expect("items").clone()
}

fn peek(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let (id, content) = (event.id.to_string(), event.content.to_string());
    for (place, expected) in [
        ("kafka", &id),
        ("clickhouse", &id),
        ("redis", &content),
        ("http", &id),
    ] {
        eventually(&format!("{place} shows the event"), || {
            let items = items(stack, place);
            let is_shown = items.iter().any(|item| item.to_string().contains(expected));
            is_shown.then_some(()).ok_or_else(|| format!("{items:?}"))
        });
        let shown = stack.fanout.run(&["peek", place, "-n", "50"]);
        shown.ends_with(0).says(expected);
    }
}

/// The command that `peek -v` prints works in a shell after `fanout env`.
fn equivalent_commands(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let variables = stack
        .fanout
        .run(&["env", "--show-secrets"])
        .ends_with(0)
        .stdout;
    for (place, expected) in [
        ("clickhouse", event.id.to_string()),
        ("redis", event.content.to_string()),
        ("http", event.id.to_string()),
    ] {
        let ended = stack.fanout.run(&["-v", "peek", place, "-n", "50"]);
        let stderr = ended.ends_with(0).stderr;
        let command = stderr
            .lines()
            .find(|line| line.starts_with("curl") || line.starts_with("redis-cli"));
        let command = command.unwrap_or_else(|| panic!("no command in {stderr}"));
        eventually(command, || {
            let script = format!("{variables}\n{command}");
            let shell = Command::new("sh").args(["-c", &script]).output();
            let output = shell.expect("run a shell");
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_shown = output.status.success() && shown.contains(&expected);
            is_shown.then_some(()).ok_or(shown)
        });
    }
    let kafka = stack.fanout.run(&["-v", "peek", "kafka"]).ends_with(0);
    kafka.says("kcat -b \"$FANOUT_KAFKA_BROKERS\" -C -t cdc.public.engagement_events");
}

fn explained_board(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let content = event.content.to_string();
    let board = stack
        .fanout
        .document(0, &["leaderboard", "--limit", "1000"]);
    let rows = board["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["content_id"] == content);
    let row = row.unwrap_or_else(|| panic!("{content} is not in {board:#}"));
    assert_eq!(
        (&row["score"], &row["title"]),
        (&json!(1), &json!("a test"))
    );
    let report = stack
        .fanout
        .document(0, &["leaderboard", "--explain", &content]);
    let explanation = &report["explanation"];
    assert_eq!(explanation["board"], 1);
    assert_eq!(explanation["source"], 1);
    assert_eq!(explanation["events"][0]["id"], event.id);
    let unknown = Uuid::new_v4().to_string();
    let report = stack
        .fanout
        .document(0, &["leaderboard", "--explain", &unknown]);
    let explanation = &report["explanation"];
    assert_eq!(
        (&explanation["board"], &explanation["total"]),
        (&Json::Null, &json!(0))
    );
}

fn watched_board(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let content = event.content.to_string();
    let watch = RunningCommand::start(
        stack,
        &["leaderboard", "--limit", "1000", "--watch", "100ms"],
    );
    watch.wait_for_document("the event on the board", |board| {
        let rows = board["rows"].as_array()?;
        rows.iter()
            .find(|row| row["content_id"] == content)
            .cloned()
    });
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts)
         VALUES ('{content}', 'play', now())"
    ));
    let row = watch.wait_for_document("the change", |board| {
        let rows = board["rows"].as_array()?;
        let row = rows.iter().find(|row| row["content_id"] == content)?;
        (row["score"] == 2).then(|| row.clone())
    });
    assert_eq!(row["change"], 1, "{row}");
    watch.stop();
}

/// A Redis that replicates from an unreachable primary refuses writes.
fn read_only_redis(stack: &Stack) {
    let set_primary = |words: [&str; 2]| {
        let answer: String = stack.stores.redis(&["REPLICAOF", words[0], words[1]]);
        assert_eq!(answer, "OK");
    };
    set_primary(["127.0.0.1", "1"]);
    eventually("leaderboard reports a read-only redis", || {
        let remark = stack.fanout.document(0, &["leaderboard"])["remark"].clone();
        check_equal(&json!("read_only"), remark["code"].clone())
    });
    eventually("status reports a read-only redis", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let is_reported = ended.stdout.contains("it is a read-only replica");
        (ended.code == Some(5) && is_reported)
            .then_some(())
            .ok_or_else(|| ended.evidence())
    });
    set_primary(["NO", "ONE"]);
    stack.wait_until_healthy();
}

/// Only a login reveals a wrong password.
fn refused_password(stack: &Stack) {
    let mut url = Url::parse(stack.stores.url("FANOUT_POSTGRES_URL")).expect("a url");
    url.set_password(Some("another")).expect("a host");
    let fanout = stack.fanout.with("FANOUT_POSTGRES_URL", url.as_str());
    let ended = fanout.run(&["status", "--check"]).ends_with(5);
    let ended = ended.says("refuses the credentials of postgres.url");
    ended.says("hint: set postgres.url or FANOUT_POSTGRES_URL to the right user and password");
    let services = fanout.document(0, &["status"])["services"].clone();
    let postgres = services.as_array().into_iter().flatten();
    let postgres = postgres.filter(|service| service["name"] == "postgres");
    let states: Vec<&Json> = postgres.map(|service| &service["state"]).collect();
    assert_eq!(states, ["denied"]);
}

fn metrics(stack: &Stack) {
    Event::insert(stack);
    let url = stack.stores.url("FANOUT_HTTP_URL");
    let get = |path: &str| {
        wait_for(async {
            let response = reqwest::get(format!("{url}{path}"))
                .await
                .expect("reach the pipeline");
            let status = response.status().as_u16();
            (status, response.text().await.expect("text"))
        })
    };
    assert_eq!(get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get("/nowhere").0, 404);
    for sink in ["redis", "clickhouse", "http"] {
        let applied = format!("fanout_sink_records_total{{sink=\"{sink}\",outcome=\"applied\"");
        eventually(&format!("{sink} counts what it applied"), || {
            let (status, text) = get("/metrics");
            assert_eq!(status, 200);
            assert!(text.ends_with("# EOF\n"), "{text}");
            let lines = text.lines().filter(|line| line.starts_with(&applied));
            let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
            let sum: u64 = counts.sum();
            (sum > 0).then_some(()).ok_or(text)
        });
    }
}

/// A pipeline with its own consumer groups sends all inserts to another
/// external system and exits once it has caught up.
fn until_idle(stack: &Stack) {
    let folder = tempfile::tempdir().expect("create a folder");
    let stub = Stub::start(stack, folder.path());
    let last = Event::insert(stack);
    let fanout = stack
        .fanout
        .with("FANOUT_KAFKA_GROUP_PREFIX", "idle")
        .with("FANOUT_EXTERNAL_URL", &stub.url);
    let arguments = ["run", "--sinks", "http", "--until-idle", "--http-addr"];
    let arguments: Vec<&str> = arguments.into_iter().chain(["127.0.0.1:0"]).collect();
    let report = fanout.document(0, &arguments);
    assert_eq!(report["drained"], true, "{report:#}");
    assert!(report["fence"].is_object(), "{report:#}");
    let ids = |accepted: Vec<Json>| -> BTreeSet<i64> {
        let ids = accepted
            .iter()
            .filter_map(|call| call["body"]["id"].as_i64());
        ids.collect()
    };
    let found = ids(accepted_by(&stub.url));
    assert!(found.contains(&last.id), "{} of {found:?}", last.id);
    eventually("both external systems have the same events", || {
        check_equal(&found, ids(stack.stores.accepted()))
    });
}

fn broken_hop(stack: &Stack) {
    stack.kill("stub");
    let folder = tempfile::tempdir().expect("create a folder");
    let junit = folder.path().join("smoke.xml");
    let limits = ["--timeout", "30s", "--latency-budget", "30s"];
    let mut arguments = [&["smoke"], &limits[..], &["--junit"]].concat();
    arguments.push(junit.to_str().expect("a path in UTF-8"));
    let ended = stack.fanout.run(&arguments).ends_with(5);
    let ended = ended.says("first broken hop: http");
    for hop in ["kafka", "clickhouse", "redis"] {
        let line = ended.stdout.lines().find(|line| line.starts_with(hop));
        let line = line.unwrap_or_else(|| panic!("{}", ended.evidence()));
        assert!(line.contains(" ok "), "{line}");
    }
    let junit = fs::read_to_string(junit).expect("read the report");
    assert!(junit.contains("failures=\"1\""), "{junit}");
    stack.repair();
}

fn doctor(stack: &Stack) {
    let report = stack.fanout.document(0, &["doctor"]);
    let findings = report["findings"].as_array().expect("findings");
    let failed = |finding: &&Json| finding["level"] == "fail";
    assert_eq!(findings.iter().find(failed), None);
    let passed = |name: &str| {
        findings
            .iter()
            .any(|finding| finding["name"] == name && finding["level"] == "pass")
    };
    for name in [
        "kafka: programs",
        "postgres: wal_level",
        "postgres: replica identity of content",
    ] {
        assert!(passed(name), "{name}: {report:#}");
    }

    let table = "ALTER TABLE public.content REPLICA IDENTITY";
    stack.stores.postgres(&format!("{table} DEFAULT"));
    let ended = stack.fanout.run(&["doctor"]);
    stack.stores.postgres(&format!("{table} FULL"));
    ended.ends_with(5).says(&format!("{table} FULL"));
}
