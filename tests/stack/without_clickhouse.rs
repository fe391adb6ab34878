//! A project with the sinks redis and http on the stack's servers: ClickHouse is
//! neither started nor asked for anything, and the promises of the other sinks
//! are kept and verified all the same.

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
    support::{Fanout, Stack, Stores, content, eventually, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[("its_promises_are_kept", keeps_its_promises)];

/// A window so short that the early event is in it only when its record is older
/// than all that the window needs.
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

/// The stack's servers that it uses.
const SERVERS: [&str; 4] = [
    "FANOUT_POSTGRES_URL",
    "FANOUT_KAFKA_BROKERS",
    "FANOUT_CONNECT_URL",
    "FANOUT_REDIS_URL",
];

/// The project, with a connector, a pipeline and a stub of its own.
struct Lean<'a> {
    stack: &'a Stack,
    fanout: Fanout,
    stores: Stores,
}

impl<'a> Lean<'a> {
    fn up(stack: &'a Stack) -> Self {
        let path = stack.fanout.home().join("lean.yaml");
        fs::write(&path, CONFIG).expect("a file");
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
        // Behind its fence the connector streams: what comes now is an insert.
        eventually("it is verified", || {
            let ended = lean.fanout.run(&["verify"]);
            match ended.code {
                Some(0) => Ok(()),
                _ => Err(ended.evidence()),
            }
        });
        lean
    }

    /// Writes an event of a content.
    fn insert(&self, content: Uuid, event_ts: &str) -> i64 {
        let id = self.stores.postgres_text(&format!(
            "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
             VALUES ('{content}', 'play', {event_ts}, 65000, 'ios') RETURNING id::text"
        ));
        id.parse().expect("an id")
    }

    /// Waits until a content has this score on the board.
    fn scores(&self, content: Uuid, score: i64) {
        eventually(&format!("{content} scores {score}"), || {
            let board = self.stores.board("top10m:lean")?;
            same(&Some(score), board.get(&content.to_string()).copied())
        });
    }

    /// A new content with one event on the board, for as long as the window lasts.
    fn has_a_fresh_event(&self) {
        let content = content(self.stack, 100);
        self.insert(content, "now()");
        self.scores(content, 1);
    }

    /// Waits until the external system has had an insert.
    fn is_told(&self, id: i64) {
        eventually(&format!("event {id} is told"), || {
            let accepted = self.stores.accepted();
            let is_told = accepted.iter().any(|call| call["body"]["id"] == id);
            is_told.then_some(()).ok_or_else(|| "it is not".to_owned())
        });
    }

    /// `verify` judges all but ClickHouse's rows, and says so; nothing differs.
    fn verifies(&self) {
        self.has_a_fresh_event();
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

    /// Kills its worker the hard way.
    fn loses_its_worker(&self) {
        let status = self.fanout.document(0, &["status"]);
        let services = status["services"].as_array().expect("services");
        let pipeline = services.iter().find(|one| one["name"] == "pipeline");
        let pid = pipeline.and_then(|one| one["pid"].as_i64());
        let pid = pid.unwrap_or_else(|| panic!("it does not run: {status:#}"));
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        kill(pid, Signal::SIGKILL).expect("it was there");
    }

    /// Waits until `status` finds nothing wrong, and does not speak of ClickHouse.
    fn is_well(&self) {
        let ended = eventually("everything works", || {
            let ended = self.fanout.run(&["status", "--check"]);
            match ended.code {
                Some(0) => Ok(ended),
                _ => Err(ended.evidence()),
            }
        });
        assert!(!ended.stdout.contains("clickhouse"), "{}", ended.evidence());
    }

    /// The explanation of a content that has an event in the window.
    fn explains(&self, content: Uuid) -> Json {
        let content = content.to_string();
        eventually("its event is in the window", || {
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

fn keeps_its_promises(stack: &Stack) {
    let lean = Lean::up(stack);
    lean.is_well();
    let (early, other) = (content(stack, 100), content(stack, 100));
    lean.insert(
        early,
        &format!("now() + interval '{AHEAD_SECONDS} seconds'"),
    );
    let [kept, gone] = [(); 2].map(|()| lean.insert(other, "now()"));
    lean.scores(other, 2);
    lean.stores.postgres(&format!(
        "UPDATE engagement_events SET duration_ms = 1 WHERE id = {kept};
         DELETE FROM engagement_events WHERE id = {gone}"
    ));
    lean.scores(other, 1);
    lean.loses_its_worker();
    let missed = lean.insert(other, "now()");
    lean.fanout.run(&["up"]).ends_with(0);
    for id in [kept, gone, missed] {
        lean.is_told(id);
    }
    lean.is_well();
    lean.verifies();
    is_followed(&lean);
    // Its record is older by now than all that the board reads.
    let explanation = lean.explains(early);
    assert_eq!(explanation["events"][0]["ahead"], true, "{explanation:#}");
    let counted = (&explanation["board"], &explanation["source"]);
    assert_eq!(counted, (&Json::Null, &Json::from(0)), "{explanation:#}");
    lean.verifies();
    is_reconciled(&lean);
    lean.fanout.run(&["reset", "--yes"]).ends_with(0);
    stack.is_well();
}

/// `smoke` follows an event to the sinks that there are, and the board has titles.
fn is_followed(lean: &Lean<'_>) {
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
    lean.has_a_fresh_event();
    let board = lean.fanout.document(0, &["leaderboard"]);
    let rows = board["rows"].as_array().expect("rows");
    let has_title = |row: &Json| row["title"] == "a test";
    assert!(rows.iter().any(has_title), "{board:#}");
}

/// The one remedy does without ClickHouse.
fn is_reconciled(lean: &Lean<'_>) {
    let report = lean.fanout.document(0, &RECONCILE);
    let (plan, done) = (&report["plan"], &report["done"]);
    assert_eq!(plan["rebuilds"], true, "{report:#}");
    assert_eq!(plan["sinks"], serde_json::json!(["redis"]), "{report:#}");
    assert_eq!(done["pruned"], Json::Null, "{report:#}");
    assert!(done["board"].is_number(), "{report:#}");
    lean.is_well();
    lean.verifies();
}
