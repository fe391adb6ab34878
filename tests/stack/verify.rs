//! `verify`, the oracle of all other tests: each store is given one difference
//! of each kind, and each has to end with 5 and name the id.
//!
//! What is corrupted is a copy: `verify` is pointed at it, and the stack goes
//! on unharmed.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use fanout::{config::Settings, operations::objects};
use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Fanout, Stack, Stub, eventually, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("a_stack_that_agrees_is_clean", |stack| {
        event(stack);
        stack.verifies();
    }),
    ("a_missing_row", missing_row),
    ("a_row_marked_deleted", |stack| {
        tampered_row(
            stack,
            "1 AS _deleted",
            &finding("rows", "missing", ID, None),
        );
    }),
    ("an_extra_row", |stack| {
        let extra = (ID + 1).to_string();
        tampered_row(
            stack,
            "event_id + 1 AS event_id",
            &finding("rows", "extra", extra, None),
        );
    }),
    ("another_content_id", |stack| {
        column(stack, "content_id", "generateUUIDv4()");
    }),
    ("another_user_id", |stack| {
        column(stack, "user_id", "generateUUIDv4()");
    }),
    ("another_event_type", |stack| {
        column(stack, "event_type", "'click'");
    }),
    ("another_event_ts", |stack| {
        column(stack, "event_ts", "addMicroseconds(event_ts, 1)");
    }),
    ("another_duration_ms", |stack| {
        column(stack, "duration_ms", "duration_ms + 1");
    }),
    ("another_engagement_seconds", |stack| {
        column(stack, "engagement_seconds", "engagement_seconds + 0.001");
    }),
    ("another_engagement_pct", |stack| {
        column(stack, "engagement_pct", "engagement_pct + 0.01");
    }),
    ("another_device", |stack| column(stack, "device", "NULL")),
    ("another_raw_payload", |stack| {
        column(stack, "raw_payload", "concat(raw_payload, ' ')");
    }),
    ("another_content_type", |stack| {
        column(stack, "content_type", "'podcast'");
    }),
    ("another_length_seconds", |stack| {
        column(stack, "length_seconds", "length_seconds + 1");
    }),
    ("a_row_behind_its_latest_record", |stack| {
        let event = format!("event {ID}");
        let what = Some("latest record applied");
        tampered_row(
            stack,
            "_offset - 1 AS _offset",
            &finding("records", "differs", event, what),
        );
    }),
    ("another_score", |stack| {
        let change = "redis.call('ZINCRBY', 'tampered', 1, ARGV[1])";
        tampered_board(
            stack,
            change,
            CONTENT,
            &finding("board", "differs", CONTENT, Some("score")),
        );
    }),
    ("a_missing_member", |stack| {
        let change = "redis.call('ZREM', 'tampered', ARGV[1])";
        tampered_board(
            stack,
            change,
            CONTENT,
            &finding("board", "missing", CONTENT, None),
        );
    }),
    ("an_extra_member", |stack| {
        let change = "redis.call('ZADD', 'tampered', 1, ARGV[1])";
        tampered_board(
            stack,
            change,
            STRANGER,
            &finding("board", "extra", STRANGER, None),
        );
    }),
    ("a_missing_call", |stack| {
        tampered_calls(stack, "missing", None);
    }),
    ("a_call_with_another_body", |stack| {
        tampered_calls(stack, "differs", Some("body"));
    }),
    ("an_extra_call", |stack| {
        tampered_calls(stack, "extra", None);
    }),
];

/// The event that the differences are of, far from the ids of others.
const ID: i64 = 500_000_000;

/// Its content, of which it is the only event.
const CONTENT: &str = "50000000-0000-4000-8000-000000000000";

/// A content that there is none of.
const STRANGER: &str = "50000000-0000-4000-8000-00000000000f";

/// What `verify` has to say of one difference.
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
    let id = id.to_string();
    Finding {
        check,
        kind,
        id,
        what,
    }
}

/// Runs `verify`, which has to end with 5 and to name the difference.
#[track_caller]
fn finds(fanout: &Fanout, finding: &Finding) {
    let report = fanout.document(5, &["verify"]);
    assert_eq!(report["ok"], false, "{report:#}");
    let checks = report["checks"].as_array().expect("checks");
    let mut differences = checks
        .iter()
        .flat_map(|check| check["shown"].as_array().expect("differences"));
    let named = differences.any(|difference| {
        difference["check"] == finding.check
            && difference["kind"] == finding.kind
            && difference["id"] == finding.id
            && difference["what"] == json!(finding.what)
    });
    // One corruption is one difference: an oracle that cries wolf is none.
    let count = |check: &&Json| check["check"] == finding.check && check["differences"] == 1;
    let alone = checks.iter().filter(count).count() == 1;
    let Finding {
        check,
        kind,
        id,
        what,
    } = finding;
    assert!(
        named && alone,
        "{check} {kind} {id} {what:?} is not the one in {report:#}"
    );
}

/// The event, in every store.
fn event(stack: &Stack) {
    stack.stores.postgres(&format!(
        r#"INSERT INTO content VALUES ('{CONTENT}', 'verify', 'a test', 'video', 100, now())
           ON CONFLICT DO NOTHING;
           INSERT INTO engagement_events VALUES
               ({ID}, '{CONTENT}', '{CONTENT}', 'play', now(), 65000, 'ios', '{{"a": 1}}')
           ON CONFLICT DO NOTHING"#
    ));
    eventually("the row is enriched", || {
        let row = stack.stores.row(ID).unwrap_or_default();
        let enriched = row["content_type"] == "video";
        enriched.then_some(()).ok_or_else(|| row.to_string())
    });
    eventually("the call is accepted", || {
        call(stack)
            .map(|_| ())
            .ok_or_else(|| "it is not".to_owned())
    });
}

/// The call that was made of the event.
fn call(stack: &Stack) -> Option<Json> {
    let accepted = stack.stores.accepted();
    accepted.into_iter().find(|call| call["body"]["id"] == ID)
}

/// `verify`, pointed at a copy of the ClickHouse tables.
fn copied_tables(stack: &Stack) -> Fanout {
    let mut settings = Settings::default();
    "tampered".clone_into(&mut settings.clickhouse.database);
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    stack.stores.clickhouse("DROP DATABASE IF EXISTS tampered");
    wait_for(objects::clickhouse(&settings)).expect("the tables");
    for table in ["engagement_enriched_storage", "content", "fanout_topics"] {
        let copy = format!("INSERT INTO tampered.{table} SELECT * FROM analytics.{table}");
        stack.stores.clickhouse(&copy);
    }
    let sinks = stack.fanout.with("FANOUT_PIPELINE_SINKS", "clickhouse");
    sinks.with("FANOUT_CLICKHOUSE_DATABASE", "tampered")
}

fn missing_row(stack: &Stack) {
    event(stack);
    let fanout = copied_tables(stack);
    stack.stores.clickhouse(&format!(
        "ALTER TABLE tampered.engagement_enriched_storage DELETE WHERE event_id = {ID}
         SETTINGS mutations_sync = 2"
    ));
    finds(&fanout, &finding("rows", "missing", ID, None));
}

/// A later version of the row, otherwise than the source has it.
fn tampered_row(stack: &Stack, change: &str, finding: &Finding) {
    event(stack);
    let fanout = copied_tables(stack);
    stack.stores.clickhouse(&format!(
        "INSERT INTO tampered.engagement_enriched_storage
         SELECT * REPLACE ({change}, _version + 1 AS _version) FROM
             (SELECT * FROM analytics.engagement_enriched_storage FINAL WHERE event_id = {ID})"
    ));
    finds(&fanout, finding);
}

fn column(stack: &Stack, column: &'static str, value: &str) {
    let change = format!("{value} AS {column}");
    tampered_row(
        stack,
        &change,
        &finding("rows", "differs", ID, Some(column)),
    );
}

/// A board that is published as the real one is, with one change.
fn tampered_board(stack: &Stack, change: &str, member: &str, finding: &Finding) {
    event(stack);
    // However long ago the tests before this one began.
    stack.stores.postgres(&format!(
        "UPDATE engagement_events SET event_ts = now() WHERE id = {ID}"
    ));
    eventually("the event is on the board", || {
        let board = stack.stores.board("top10m")?;
        board
            .get(CONTENT)
            .map(|_| ())
            .ok_or_else(|| format!("{board:?}"))
    });
    let script = format!(
        "for from, to in pairs({{['top10m'] = 'tampered', ['{{top10m}}:meta'] = '{{tampered}}:meta'}}) do
             local left = math.max(0, redis.call('PTTL', from))
             redis.call('RESTORE', to, left, redis.call('DUMP', from), 'REPLACE')
         end
         {change}"
    );
    let fanout = stack.fanout.with("FANOUT_PIPELINE_SINKS", "redis");
    let fanout = fanout.with("FANOUT_BOARD_KEY", "tampered");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let () = stack.stores.redis(&["EVAL", &script, "0", member]);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let _done = Done(&done);
        finds(&fanout, finding);
    });
}

/// Ends the publishing, also where the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stub with the calls that there were, but for the event's.
fn tampered_calls(stack: &Stack, kind: &'static str, what: Option<&'static str>) {
    event(stack);
    let call = call(stack).expect("a call");
    let key = call["key"].as_str().expect("a key");
    let folder = tempfile::tempdir().expect("a folder");
    let journal = fs::read(stack.file("data/stub/events-1.log")).expect("the journal");
    let journal = if kind == "extra" {
        journal
    } else {
        without(&journal, key)
    };
    fs::write(folder.path().join("events-1.log"), journal).expect("a journal");
    let stub = Stub::start(stack, folder.path());
    let posted = match kind {
        "differs" => Some(key),
        "extra" => Some(STRANGER),
        _ => None,
    };
    if let Some(key) = posted {
        let answer = wait_for(async {
            let request = reqwest::Client::new().post(format!("{}/events", stub.url));
            request
                .header("Idempotency-Key", key)
                .body("{}")
                .send()
                .await
        });
        assert_eq!(answer.expect("an answer").status(), 201);
    }
    let fanout = stack.fanout.with("FANOUT_PIPELINE_SINKS", "http");
    let fanout = fanout.with("FANOUT_EXTERNAL_URL", &stub.url);
    finds(
        &fanout,
        &finding("external", kind, posted.unwrap_or(key), what),
    );
}

/// A stub's journal without the call of this key: a first line, and for each
/// call a line that ends in its key and a line that is its body.
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
