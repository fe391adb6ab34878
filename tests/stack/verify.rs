//! `verify` is the oracle of all other tests. Here each store gets one
//! difference of each kind, and `verify` must exit with 5 and report the id.
//!
//! Only copies are corrupted: `verify` is pointed at the copy, and the stack
//! stays unchanged.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use fanout::{config::Settings, connections::Connections, sinks::clickhouse::owned};
use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Fanout, Stack, Stub, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("a_consistent_stack_has_no_differences", |stack| {
        insert_events(stack, 1);
        stack.assert_verified();
    }),
    ("a_difference_in_any_column_is_found", columns),
    ("missing_deleted_extra_and_outdated_rows_are_found", rows),
    ("differing_scores_and_members_of_the_board_are_found", board),
    ("missing_extra_and_differing_calls_are_found", calls),
];

/// The compared columns, with a different value for each.
const COLUMNS: [(&str, &str); 11] = [
    ("content_id", "generateUUIDv4()"),
    ("user_id", "generateUUIDv4()"),
    ("event_type", "'click'"),
    ("event_ts", "addMicroseconds(event_ts, 1)"),
    ("duration_ms", "duration_ms + 1"),
    ("engagement_seconds", "engagement_seconds + 0.001"),
    ("engagement_pct", "engagement_pct + 0.01"),
    ("device", "NULL"),
    ("raw_payload", "concat(raw_payload, ' ')"),
    ("content_type", "'podcast'"),
    ("length_seconds", "length_seconds + 1"),
];

/// The id of a content that does not exist.
const STRANGER: &str = "50000000-0000-4000-8000-0000000000ff";

/// Returns the id of an event to corrupt, far from all other ids. The next id
/// is unused.
fn id(number: usize) -> i64 {
    500_000_000 + 10 * i64::try_from(number).expect("few")
}

/// Returns the id of the event's content, which has no other event.
fn content(number: usize) -> String {
    format!("50000000-0000-4000-8000-0000000000{number:02x}")
}

/// A difference that `verify` must report.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    kind: &'static str,
    id: String,
    what: Option<&'static str>,
}

fn finding(
    check: &'static str,
    kind: &'static str,
    id: impl ToString,
    what: Option<&'static str>,
) -> Finding {
    Finding {
        check,
        kind,
        id: id.to_string(),
        what,
    }
}

/// Runs `verify` and asserts that it exits with 5 and reports exactly these
/// differences.
#[track_caller]
fn assert_found(fanout: &Fanout, findings: &[Finding]) {
    let report = fanout.document(5, &["verify"]);
    assert_eq!(report["ok"], false, "{report:#}");
    let checks = report["checks"].as_array().expect("checks");
    let shown: Vec<&Json> = checks
        .iter()
        .flat_map(|check| check["shown"].as_array().expect("differences"))
        .collect();
    for finding in findings {
        let is_reported = shown.iter().any(|difference| {
            difference["check"] == finding.check
                && difference["kind"] == finding.kind
                && difference["id"] == finding.id
                && difference["what"] == json!(finding.what)
        });
        assert!(is_reported, "{finding:?} is not in {report:#}");
    }
    let counts = checks.iter().map(|check| check["differences"].as_u64());
    let count: u64 = counts.map(|count| count.expect("a number")).sum();
    assert_eq!(count, findings.len() as u64, "{report:#}");
}

/// Inserts `count` events and waits until every store has them.
fn insert_events(stack: &Stack, count: usize) {
    for number in 0..count {
        let (id, content) = (id(number), content(number));
        stack.stores.postgres(&format!(
            r#"INSERT INTO content VALUES ('{content}', 'verify {number}', 'a test', 'video', 100, now())
               ON CONFLICT DO NOTHING;
               INSERT INTO engagement_events VALUES
                   ({id}, '{content}', '{content}', 'play', now(), 65000, 'ios', '{{"a": 1}}')
               ON CONFLICT DO NOTHING"#
        ));
    }
    for number in 0..count {
        eventually("the row is enriched", || {
            let row = stack.stores.row(id(number)).unwrap_or_default();
            let enriched = row["content_type"] == "video";
            enriched.then_some(()).ok_or_else(|| row.to_string())
        });
        eventually("the call is accepted", || {
            let call = call(stack, number).map(|_| ());
            call.ok_or_else(|| "not yet".to_owned())
        });
    }
}

/// Returns the call that was made for an event.
fn call(stack: &Stack, number: usize) -> Option<Json> {
    let accepted = stack.stores.accepted();
    accepted
        .into_iter()
        .find(|call| call["body"]["id"] == id(number))
}

/// Copies the ClickHouse tables and returns a caller of `verify` for the copy.
fn copy_tables(stack: &Stack) -> Fanout {
    let mut settings = Settings::default();
    "tampered".clone_into(&mut settings.clickhouse.database);
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    stack.stores.clickhouse("DROP DATABASE IF EXISTS tampered");
    wait_for(owned::clickhouse(&Connections::of(&settings))).expect("create the tables");
    for table in ["engagement_enriched_storage", "content", "fanout_topics"] {
        let copy = format!("INSERT INTO tampered.{table} SELECT * FROM analytics.{table}");
        stack.stores.clickhouse(&copy);
    }
    let sinks = stack.fanout.with("FANOUT_PIPELINE_SINKS", "clickhouse");
    sinks.with("FANOUT_CLICKHOUSE_DATABASE", "tampered")
}

/// Writes a newer version of an event's row that differs from the source.
fn tamper(stack: &Stack, number: usize, change: &str) {
    let id = id(number);
    stack.stores.clickhouse(&format!(
        "INSERT INTO tampered.engagement_enriched_storage
         SELECT * REPLACE ({change}, _version + 1 AS _version) FROM
             (SELECT * FROM analytics.engagement_enriched_storage FINAL WHERE event_id = {id})"
    ));
}

fn columns(stack: &Stack) {
    insert_events(stack, COLUMNS.len());
    let fanout = copy_tables(stack);
    let mut findings = Vec::new();
    for (number, (column, value)) in COLUMNS.iter().enumerate() {
        tamper(stack, number, &format!("{value} AS {column}"));
        findings.push(finding("rows", "differs", id(number), Some(column)));
    }
    assert_found(&fanout, &findings);
}

fn rows(stack: &Stack) {
    insert_events(stack, 4);
    let fanout = copy_tables(stack);
    stack.stores.clickhouse(&format!(
        "ALTER TABLE tampered.engagement_enriched_storage DELETE WHERE event_id = {}
         SETTINGS mutations_sync = 2",
        id(0)
    ));
    tamper(stack, 1, "1 AS _deleted");
    tamper(stack, 2, "event_id + 1 AS event_id");
    tamper(stack, 3, "_offset - 1 AS _offset");
    let outdated = |number| {
        let event = format!("event {}", id(number));
        finding("records", "differs", event, Some("latest record applied"))
    };
    let findings = [
        finding("rows", "missing", id(0), None),
        finding("rows", "missing", id(1), None),
        finding("rows", "extra", id(2) + 1, None),
        outdated(3),
        // A row that was never written is outdated as well.
        outdated(0),
    ];
    assert_found(&fanout, &findings);
}

/// Publishes a corrupted copy of the board repeatedly, with one change of each
/// kind.
fn board(stack: &Stack) {
    const EVENTS: usize = 2;
    insert_events(stack, EVENTS);
    for number in 0..EVENTS {
        // The tests before this one may have taken longer than the window.
        let id = id(number);
        stack.stores.postgres(&format!(
            "UPDATE engagement_events SET event_ts = now() WHERE id = {id}"
        ));
    }
    eventually("the events are on the board", || {
        let board = stack.stores.board("top10m")?;
        let all = (0..EVENTS).all(|number| board.contains_key(&content(number)));
        all.then_some(()).ok_or_else(|| format!("{board:?}"))
    });
    let script =
        "for from, to in pairs({['top10m'] = 'tampered', ['{top10m}:meta'] = '{tampered}:meta'}) do
             local left = math.max(0, redis.call('PTTL', from))
             redis.call('RESTORE', to, left, redis.call('DUMP', from), 'REPLACE')
         end
         redis.call('ZINCRBY', 'tampered', 1, ARGV[1])
         redis.call('ZREM', 'tampered', ARGV[2])
         redis.call('ZADD', 'tampered', 1, ARGV[3])";
    let (other, missing) = (content(0), content(1));
    let findings = [
        finding("board", "differs", &other, Some("score")),
        finding("board", "missing", &missing, None),
        finding("board", "extra", STRANGER, None),
    ];
    let fanout = stack.fanout.with("FANOUT_PIPELINE_SINKS", "redis");
    let fanout = fanout.with("FANOUT_BOARD_KEY", "tampered");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let command = ["EVAL", script, "0", &other, &missing, STRANGER];
                let () = stack.stores.redis(&command);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let _stop = StopOnDrop(&done);
        assert_found(&fanout, &findings);
    });
}

/// Stops the publishing thread, even if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts a stub with the stack's calls, except for a missing call, a call with
/// another body, and an extra call.
fn calls(stack: &Stack) {
    insert_events(stack, 2);
    let key = |number| {
        let call = call(stack, number).expect("a call");
        call["key"].as_str().expect("a key").to_owned()
    };
    let (missing, other) = (key(0), key(1));
    let folder = tempfile::tempdir().expect("create a folder");
    let journal = fs::read(stack.file("data/stub/events-1.log")).expect("read the journal");
    let journal = without(&without(&journal, &missing), &other);
    fs::write(folder.path().join("events-1.log"), journal).expect("write the journal");
    let stub = Stub::start(stack, folder.path());
    for key in [&*other, STRANGER] {
        let response = wait_for(async {
            let request = reqwest::Client::new().post(format!("{}/events", stub.url));
            request
                .header("Idempotency-Key", key)
                .body("{}")
                .send()
                .await
        });
        assert_eq!(response.expect("a response").status(), 201);
    }
    let fanout = stack.fanout.with("FANOUT_PIPELINE_SINKS", "http");
    let fanout = fanout.with("FANOUT_EXTERNAL_URL", &stub.url);
    let findings = [
        finding("external", "missing", missing, None),
        finding("external", "differs", other, Some("body")),
        finding("external", "extra", STRANGER, None),
    ];
    assert_found(&fanout, &findings);
}

/// Returns a stub's journal without the call with this key. The journal has a
/// first line, and for each call a line that ends in its key and a line with
/// its body.
fn without(journal: &[u8], key: &str) -> Vec<u8> {
    let text = std::str::from_utf8(journal).expect("text");
    let mut lines = text.lines();
    let mut kept = format!("{}\n", lines.next().expect("a first line"));
    while let (Some(head), Some(body)) = (lines.next(), lines.next()) {
        if !head.ends_with(key) {
            kept.push_str(&format!("{head}\n{body}\n"));
        }
    }
    assert_ne!(kept.len(), text.len(), "{key} is not in the journal");
    kept.into_bytes()
}
