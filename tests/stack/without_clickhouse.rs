//! A project with the sinks redis and http on the stack's servers: ClickHouse
//! is neither started nor queried, and the guarantees of the other sinks hold
//! and are verified.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    Test,
    history::RECONCILE,
    support::{Fanout, Stack, Stores, check_equal, content, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[("the_other_sinks_keep_their_guarantees", keep_guarantees)];

/// The window is so short that the early event enters it only when the event's
/// record is older than all records that the board reads.
const CONFIG: &str = "
pipeline: {sinks: [redis, http]}
board: {window_seconds: 60, skew_seconds: 1}
services:
  postgres: {runtime: external}
  kafka: {runtime: external}
  connect: {runtime: external}
  redis: {runtime: external}
";

/// How far the early event is ahead of its record.
const AHEAD_SECONDS: u32 = 70;

/// The stack's servers that the project uses.
const SERVERS: [&str; 4] = [
    "FANOUT_POSTGRES_URL",
    "FANOUT_KAFKA_BROKERS",
    "FANOUT_CONNECT_URL",
    "FANOUT_REDIS_URL",
];

/// The project, with its own connector, pipeline and stub.
struct Lean<'a> {
    stack: &'a Stack,
    fanout: Fanout,
    stores: Stores,
}

impl<'a> Lean<'a> {
    fn up(stack: &'a Stack) -> Self {
        let path = stack.fanout.home().join("lean.yaml");
        fs::write(&path, CONFIG).expect("write the configuration");
        let mut fanout = stack
            .fanout
            .with("FANOUT_PROJECT", "lean")
            .with("FANOUT_CONFIG", path.to_str().expect("a path in UTF-8"));
        for server in SERVERS {
            fanout = fanout.with(server, stack.stores.url(server));
        }
        let up = ["--runtime", "native", "up", "--ports", "auto"];
        let dry: Vec<&str> = up.iter().chain(&["--dry-run"]).copied().collect();
        let plan = fanout.document(0, &dry);
        let steps = plan["plan"].as_array().expect("steps");
        let is_clickhouse = |step: &Json| step["service"] == "clickhouse";
        assert!(!steps.iter().any(is_clickhouse), "{plan:#}");
        let yes: Vec<&str> = up.iter().chain(&["--yes"]).copied().collect();
        fanout.run(&yes).ends_with(0);
        let lean = Self {
            stack,
            stores: Stores::of(&fanout),
            fanout,
        };
        // After the catch-up barrier of `verify` the connector streams, so that
        // new events arrive as inserts.
        eventually("verify succeeds", || {
            let ended = lean.fanout.run(&["verify"]);
            match ended.code {
                Some(0) => Ok(()),
                _ => Err(ended.evidence()),
            }
        });
        lean
    }

    /// Inserts an event of a content and returns its id.
    fn insert(&self, content: Uuid, event_ts: &str) -> i64 {
        let id = self.stores.postgres_text(&format!(
            "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
             VALUES ('{content}', 'play', {event_ts}, 65000, 'ios') RETURNING id::text"
        ));
        id.parse().expect("the id is a number")
    }

    /// Waits until a content has this score on the board.
    fn wait_for_score(&self, content: Uuid, score: i64) {
        eventually(&format!("{content} scores {score}"), || {
            let board = self.stores.board("top10m:lean")?;
            check_equal(&Some(score), board.get(&content.to_string()).copied())
        });
    }

    /// Inserts an event of a new content and waits until it is on the board.
    fn insert_fresh_event(&self) {
        let content = content(self.stack, 100);
        self.insert(content, "now()");
        self.wait_for_score(content, 1);
    }

    /// Waits until the external system has received the insert of an event.
    fn wait_for_delivery(&self, id: i64) {
        eventually(&format!("the external system receives event {id}"), || {
            let accepted = self.stores.accepted();
            let is_delivered = accepted.iter().any(|call| call["body"]["id"] == id);
            is_delivered
                .then_some(())
                .ok_or_else(|| "not yet".to_owned())
        });
    }

    /// Asserts that `verify` finds no difference and skips only the ClickHouse
    /// rows.
    fn assert_verified(&self) {
        self.insert_fresh_event();
        let report = self.fanout.document(0, &["verify"]);
        let checks = report["checks"].as_array().expect("checks");
        let names: Vec<&Json> = checks.iter().map(|check| &check["check"]).collect();
        assert_eq!(names, ["rows", "board", "external", "records"]);
        for check in checks {
            let is_rows = check["check"] == "rows";
            assert_eq!(check["skipped"], is_rows, "{report:#}");
            assert_eq!(check["compared"] == 0, is_rows, "{report:#}");
            for count in ["differences", "unjudged"] {
                assert_eq!(check[count], 0, "{report:#}");
            }
        }
    }

    /// Kills the project's worker with SIGKILL.
    fn kill_worker(&self) {
        let status = self.fanout.document(0, &["status"]);
        let services = status["services"].as_array().expect("services");
        let pipeline = services
            .iter()
            .find(|service| service["name"] == "pipeline");
        let pid = pipeline.and_then(|service| service["pid"].as_i64());
        let pid = pid.unwrap_or_else(|| panic!("the pipeline is not running: {status:#}"));
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        kill(pid, Signal::SIGKILL).expect("kill the pipeline");
    }

    /// Waits until `status --check` succeeds, and asserts that `status` does
    /// not mention ClickHouse.
    fn wait_until_healthy(&self) {
        let ended = eventually("the project is healthy", || {
            let ended = self.fanout.run(&["status", "--check"]);
            match ended.code {
                Some(0) => Ok(ended),
                _ => Err(ended.evidence()),
            }
        });
        assert!(!ended.stdout.contains("clickhouse"), "{}", ended.evidence());
    }

    /// Waits until a content has an event in the window, and returns its
    /// explanation.
    fn wait_for_explanation(&self, content: Uuid) -> Json {
        let content = content.to_string();
        eventually("the event is in the window", || {
            let explain = &["leaderboard", "--explain", content.as_str()];
            let report = self.fanout.document(0, explain);
            let explanation = &report["explanation"];
            match explanation["events"].as_array() {
                Some(events) if !events.is_empty() => Ok(explanation.clone()),
                _ => Err(report.to_string()),
            }
        })
    }
}

fn keep_guarantees(stack: &Stack) {
    let lean = Lean::up(stack);
    lean.wait_until_healthy();
    let (early, other) = (content(stack, 100), content(stack, 100));
    lean.insert(
        early,
        &format!("now() + interval '{AHEAD_SECONDS} seconds'"),
    );
    let [kept, deleted] = [(); 2].map(|()| lean.insert(other, "now()"));
    lean.wait_for_score(other, 2);
    lean.stores.postgres(&format!(
        "UPDATE engagement_events SET duration_ms = 1 WHERE id = {kept};
         DELETE FROM engagement_events WHERE id = {deleted}"
    ));
    lean.wait_for_score(other, 1);
    lean.kill_worker();
    let missed = lean.insert(other, "now()");
    lean.fanout.run(&["up"]).ends_with(0);
    for id in [kept, deleted, missed] {
        lean.wait_for_delivery(id);
    }
    lean.wait_until_healthy();
    lean.assert_verified();
    assert_smoke_and_titles(&lean);
    // The event's record is now older than all records that the board reads.
    let explanation = lean.wait_for_explanation(early);
    assert_eq!(explanation["events"][0]["ahead"], true, "{explanation:#}");
    let counted = (&explanation["board"], &explanation["source"]);
    assert_eq!(counted, (&Json::Null, &Json::from(0)), "{explanation:#}");
    lean.assert_verified();
    assert_reconcile(&lean);
    lean.fanout.run(&["reset", "--yes"]).ends_with(0);
    stack.wait_until_healthy();
}

/// Asserts that `smoke` follows an event to the configured sinks, and that the
/// board has titles.
fn assert_smoke_and_titles(lean: &Lean<'_>) {
    let smoke = ["smoke", "--latency-budget", "60s"];
    let report = lean.fanout.document(0, &smoke);
    let hops = report["hops"].as_array().expect("hops");
    for hop in hops {
        let expected = match hop["place"].as_str() {
            Some("clickhouse") => "skipped",
            _ => "ok",
        };
        assert_eq!(hop["outcome"], expected, "{report:#}");
    }
    lean.insert_fresh_event();
    let board = lean.fanout.document(0, &["leaderboard"]);
    let rows = board["rows"].as_array().expect("rows");
    let has_title = |row: &Json| row["title"] == "a test";
    assert!(rows.iter().any(has_title), "{board:#}");
}

/// Asserts that a reconcile works without ClickHouse.
fn assert_reconcile(lean: &Lean<'_>) {
    let report = lean.fanout.document(0, &RECONCILE);
    let (plan, done) = (&report["plan"], &report["done"]);
    assert_eq!(plan["rebuilds"], true, "{report:#}");
    assert_eq!(plan["sinks"], serde_json::json!(["redis"]), "{report:#}");
    assert_eq!(done["pruned"], Json::Null, "{report:#}");
    assert!(done["board"].is_number(), "{report:#}");
    lean.wait_until_healthy();
    lean.assert_verified();
}
