//! The verbs that look at a running stack: what they show is what is there,
//! and what is broken they name.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::{Value as Json, json};
use url::Url;
use uuid::Uuid;

use crate::{
    Test,
    support::{Event, Going, Stack, Stub, accepted_by, eventually, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("peek_shows_one_event_in_every_place", peek),
    ("the_same_look_can_be_typed_with_common_tools", typed_looks),
    (
        "the_leaderboard_is_explained_by_its_events",
        explained_board,
    ),
    (
        "a_watched_leaderboard_shows_changes_until_it_is_told_to_stop",
        watched_board,
    ),
    (
        "a_board_that_redis_does_not_let_be_written_says_why",
        read_only_redis,
    ),
    (
        "a_password_that_postgres_refuses_is_named",
        refused_password,
    ),
    ("the_pipeline_tells_its_health_and_its_metrics", metrics),
    ("a_run_until_idle_ends_when_all_has_arrived", until_idle),
    ("a_smoke_test_names_the_first_broken_hop", broken_hop),
    ("doctor_finds_nothing_that_fails", doctor),
];

/// The documents of `peek`.
fn items(stack: &Stack, place: &str) -> Vec<Json> {
    let report = stack.fanout.document(0, &["peek", place, "-n", "50"]);
    report["items"].as_array().expect("items").clone()
}

fn peek(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let (id, content) = (event.id.to_string(), event.content.to_string());
    for (place, mark) in [
        ("kafka", &id),
        ("clickhouse", &id),
        ("redis", &content),
        ("http", &id),
    ] {
        eventually(&format!("{place} shows the event"), || {
            let items = items(stack, place);
            let there = items.iter().any(|item| item.to_string().contains(mark));
            there.then_some(()).ok_or_else(|| format!("{items:?}"))
        });
        let shown = stack.fanout.run(&["peek", place, "-n", "50"]);
        shown.ends_with(0).says(mark);
    }
}

/// What `peek -v` says can be typed, typed into a shell after `fanout env`.
fn typed_looks(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let variables = stack
        .fanout
        .run(&["env", "--show-secrets"])
        .ends_with(0)
        .stdout;
    for (place, mark) in [
        ("clickhouse", event.id.to_string()),
        ("redis", event.content.to_string()),
        ("http", event.id.to_string()),
    ] {
        let ended = stack.fanout.run(&["-v", "peek", place, "-n", "50"]);
        let said = ended.ends_with(0).stderr;
        let typed = said
            .lines()
            .find(|line| line.starts_with("curl") || line.starts_with("redis-cli"));
        let typed = typed.unwrap_or_else(|| panic!("nothing to type in {said}"));
        eventually(typed, || {
            let script = format!("{variables}\n{typed}");
            let shell = Command::new("sh").args(["-c", &script]).output();
            let output = shell.expect("a shell");
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            let there = output.status.success() && shown.contains(&mark);
            there.then_some(()).ok_or(shown)
        });
    }
    let kafka = stack.fanout.run(&["-v", "peek", "kafka"]).ends_with(0);
    kafka.says("kcat -b \"$FANOUT_KAFKA_BROKERS\" -C -t cdc.public.engagement_events");
}

fn explained_board(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
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
    let nobody = Uuid::new_v4().to_string();
    let report = stack
        .fanout
        .document(0, &["leaderboard", "--explain", &nobody]);
    let explanation = &report["explanation"];
    assert_eq!(
        (&explanation["board"], &explanation["total"]),
        (&Json::Null, &json!(0))
    );
}

fn watched_board(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let content = event.content.to_string();
    let watch = Going::start(
        stack,
        &["leaderboard", "--limit", "1000", "--watch", "100ms"],
    );
    watch.next("the event on the board", |board| {
        let rows = board["rows"].as_array()?;
        rows.iter()
            .find(|row| row["content_id"] == content)
            .cloned()
    });
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts)
         VALUES ('{content}', 'play', now())"
    ));
    let row = watch.next("the change", |board| {
        let rows = board["rows"].as_array()?;
        let row = rows.iter().find(|row| row["content_id"] == content)?;
        (row["score"] == 2).then(|| row.clone())
    });
    assert_eq!(row["change"], 1, "{row}");
    watch.stop();
}

/// A replica of a primary that is not there takes no writes.
fn read_only_redis(stack: &Stack) {
    let primary = |words: [&str; 2]| {
        let answer: String = stack.stores.redis(&["REPLICAOF", words[0], words[1]]);
        assert_eq!(answer, "OK");
    };
    primary(["127.0.0.1", "1"]);
    eventually("the board says that redis is read-only", || {
        let remark = stack.fanout.document(0, &["leaderboard"])["remark"].clone();
        same(&json!("read_only"), remark["code"].clone())
    });
    eventually("status says it in words", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let says = ended.stdout.contains("it is a read-only replica");
        (ended.code == Some(5) && says)
            .then_some(())
            .ok_or_else(|| ended.evidence())
    });
    primary(["NO", "ONE"]);
    stack.is_well();
}

/// Nothing but a login shows it.
fn refused_password(stack: &Stack) {
    let mut url = Url::parse(stack.stores.url("FANOUT_POSTGRES_URL")).expect("a url");
    url.set_password(Some("another")).expect("a host");
    let fanout = stack.fanout.with("FANOUT_POSTGRES_URL", url.as_str());
    let ended = fanout.run(&["status", "--check"]).ends_with(5);
    let ended = ended.says("it refuses the credentials of postgres.url");
    ended.says("hint: set postgres.url or FANOUT_POSTGRES_URL to the right user and password");
    let services = fanout.document(0, &["status"])["services"].clone();
    let postgres = services.as_array().into_iter().flatten();
    let postgres = postgres.filter(|one| one["name"] == "postgres");
    let states: Vec<&Json> = postgres.map(|one| &one["state"]).collect();
    assert_eq!(states, ["denied"]);
}

fn metrics(stack: &Stack) {
    Event::insert(stack);
    let url = stack.stores.url("FANOUT_HTTP_URL");
    let get = |path: &str| {
        wait_for(async {
            let answer = reqwest::get(format!("{url}{path}"))
                .await
                .expect("it serves");
            let status = answer.status().as_u16();
            (status, answer.text().await.expect("text"))
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

/// A pipeline of groups of its own that tells another external system of all
/// inserts, and ends by itself.
fn until_idle(stack: &Stack) {
    let folder = tempfile::tempdir().expect("a folder");
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
    eventually("the other external system knows the same", || {
        same(&found, ids(stack.stores.accepted()))
    });
}

fn broken_hop(stack: &Stack) {
    stack.kill("stub");
    let folder = tempfile::tempdir().expect("a folder");
    let junit = folder.path().join("smoke.xml");
    let patience = ["--timeout", "30s", "--latency-budget", "30s"];
    let mut arguments = [&["smoke"], &patience[..], &["--junit"]].concat();
    arguments.push(junit.to_str().expect("a path in UTF-8"));
    let ended = stack.fanout.run(&arguments).ends_with(5);
    let ended = ended.says("first broken hop: http");
    for hop in ["kafka", "clickhouse", "redis"] {
        let line = ended.stdout.lines().find(|line| line.starts_with(hop));
        let line = line.unwrap_or_else(|| panic!("{}", ended.evidence()));
        assert!(line.contains(" ok "), "{line}");
    }
    let junit = fs::read_to_string(junit).expect("a report");
    assert!(junit.contains("failures=\"1\""), "{junit}");
    stack.mend();
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
