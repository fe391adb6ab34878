//! Gaps in the history: each is detected and reported, the other sinks keep
//! running, and one command repairs it.

use std::{collections::BTreeSet, fs, process::Stdio};

use fanout::{config::Settings, connections::Connections, sinks::clickhouse::owned};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, Topics, check_equal, content, eventually, records, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("a_time_range_is_backfilled_from_the_source", time_range),
    ("rows_missing_from_the_source_are_pruned", pruned),
    ("a_truncate_is_reconciled", truncate),
    (
        "truncating_the_content_clears_the_enrichment",
        truncated_content,
    ),
    ("a_renamed_column_is_reconciled", renamed_column),
    ("a_lost_slot_is_reconciled", lost_slot),
    ("a_deleted_connector_is_restored", deleted_connector),
    ("lost_offsets_cause_a_reread", lost_offsets),
    (
        "records_deleted_before_consumption_are_recovered",
        retention,
    ),
    ("content_deleted_from_the_log_is_recovered", deleted_content),
    ("a_recreated_topic_is_reconciled", recreated_topic),
    ("an_added_partition_is_reconciled", added_partition),
    ("a_table_with_a_wrong_schema_is_rebuilt", wrong_table),
    ("a_redis_key_of_the_wrong_type_is_reported", wrong_key),
    ("a_stale_board_is_overwritten", stale_board),
    ("a_killed_rebuild_is_reported_and_resumed", killed_rebuild),
];

/// The command that reconciles the sinks from the source.
pub const RECONCILE: [&str; 6] = [
    "backfill", "--from", "earliest", "--source", "database", "--prune",
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// Returns the status of a sink, or null if the pipeline does not report it.
pub fn sink(stack: &Stack, name: &str) -> Json {
    let status = stack.status();
    let sinks = status["sinks"].as_array().expect("sinks");
    let sink = sinks.iter().find(|sink| sink["name"] == name);
    sink.cloned().unwrap_or_default()
}

/// Waits until a sink halts with this code and `status` shows the remedy.
fn wait_for_halt(stack: &Stack, name: &str, code: &str) {
    eventually(&format!("{name} halts with {code}"), || {
        let sink = sink(stack, name);
        let halted = sink["state"] == "halted" && sink["halt"]["code"] == code;
        halted.then_some(()).ok_or_else(|| sink.to_string())
    });
    wait_for_remedy(stack, "fanout backfill --from earliest ");
}

/// Waits until `status` shows this remedy.
fn wait_for_remedy(stack: &Stack, remedy: &str) {
    eventually(&format!("status shows the remedy {remedy}"), || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let hint = format!("hint: {remedy}");
        let is_shown = ended.code == Some(5) && ended.stdout.contains(&hint);
        is_shown.then_some(()).ok_or_else(|| ended.evidence())
    });
}

/// Asserts that `verify` finds no difference. Checks that the log can no longer
/// support are allowed to be skipped.
fn assert_consistent(stack: &Stack) {
    stack.fanout.run(&["verify"]).ends_with(0);
}

/// Reconciles the sinks, waits until the stack is healthy, and asserts that
/// `verify` finds no difference.
pub fn reconcile(stack: &Stack) -> Json {
    let report = stack.fanout.document(0, &RECONCILE);
    assert_eq!(report["plan"]["rebuilds"], true, "{report:#}");
    stack.wait_until_healthy();
    assert_consistent(stack);
    report
}

/// Reconciles ClickHouse and resends all events of the source to the external
/// system.
fn reconcile_with_http(stack: &Stack) {
    let mut all = RECONCILE.to_vec();
    all.extend(["--sinks", "clickhouse,http"]);
    stack.fanout.document(0, &all);
    stack.wait_until_healthy();
}

/// Asserts that the board and the external system still receive events.
fn assert_other_sinks_run(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    event.wait_for_delivery();
}

fn time_range(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    stack.stores.clickhouse(&format!(
        "ALTER TABLE analytics.engagement_enriched_storage DELETE WHERE event_id = {} \
         SETTINGS mutations_sync = 2",
        event.id
    ));
    let arguments = ["backfill", "--from", "5m", "--source", "database"];
    let dry: Vec<&str> = arguments.iter().chain(&["--dry-run"]).copied().collect();
    let plan = stack.fanout.document(0, &dry);
    assert!(plan["plan"]["rows"].as_u64() > Some(0), "{plan:#}");
    assert_eq!(plan["plan"]["rebuilds"], false);
    assert_eq!(stack.stores.row(event.id), None);
    // The same moment as the plan's: five minutes ago is later by now.
    let from = plan["plan"]["from"].as_str().expect("a moment");
    let arguments = ["backfill", "--from", from, "--source", "database"];
    let report = stack.fanout.document(0, &arguments);
    assert_eq!(report["done"]["rows"], plan["plan"]["rows"], "{report:#}");
    assert!(stack.stores.row(event.id).is_some());
    assert_consistent(stack);
}

/// Prunes rows without a delete in the log.
fn pruned(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let columns = "event_id + 1000000 * arrayJoin([1, 2, 3]) AS event_id, * EXCEPT (event_id)";
    stack.stores.clickhouse(&format!(
        "INSERT INTO analytics.engagement_enriched_storage SELECT {columns} \
         FROM analytics.engagement_enriched_storage FINAL WHERE event_id = {} \
         SETTINGS prefer_column_name_to_alias = 1",
        event.id
    ));
    stack.fanout.run(&["verify"]).ends_with(5);
    let log = ["backfill", "--from", "1h", "--prune"];
    stack
        .fanout
        .run(&log)
        .ends_with(2)
        .says("--source database");
    let mut arguments = RECONCILE.to_vec();
    arguments[2] = "30d";
    let report = stack.fanout.document(0, &arguments);
    assert_eq!(report["done"]["pruned"], 3, "{report:#}");
    assert_consistent(stack);
}

fn truncate(stack: &Stack) {
    let before = Event::insert(stack);
    before.wait_for_column("device", &Json::from("ios"));
    stack.stores.postgres("TRUNCATE engagement_events");
    wait_for_halt(stack, "clickhouse", "truncated");
    assert_other_sinks_run(stack);
    let report = reconcile(stack);
    assert!(report["done"]["pruned"].as_u64() > Some(0), "{report:#}");
    assert_eq!(stack.stores.row(before.id), None);
    let after = Event::insert(stack);
    after.wait_for_column("engagement_pct", &Json::from("0.65"));
}

/// Truncates only the content: its events stay but lose their enrichment.
fn truncated_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    let key = "engagement_events_content_id_fkey";
    stack.stores.postgres(&format!(
        "ALTER TABLE engagement_events DROP CONSTRAINT {key}; TRUNCATE content"
    ));
    event.wait_for_column("engagement_pct", &Json::Null);
    let replacement = content(stack, 650);
    stack.stores.postgres(&format!(
        "UPDATE content SET id = '{}' WHERE id = '{replacement}'",
        event.content
    ));
    event.wait_for_column("engagement_pct", &Json::from("0.1"));
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE content_id NOT IN (SELECT id FROM content);
         ALTER TABLE engagement_events ADD CONSTRAINT {key}
         FOREIGN KEY (content_id) REFERENCES content (id)"
    ));
    assert_consistent(stack);
}

/// After the rename every record lacks the column: the sinks that read it halt,
/// and following the hints restores consistency.
fn renamed_column(stack: &Stack) {
    const EVENTS: i64 = 25;
    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER TABLE engagement_events RENAME COLUMN {from} TO {to}");
        stack.stores.postgres(&sql);
    };
    let wait_until_halted = |name: &str| {
        eventually(&format!("{name} halts"), || {
            let sink = sink(stack, name);
            let halted = sink["state"] == "halted" && sink["halt"]["code"] == "schema_changed";
            halted.then_some(()).ok_or_else(|| sink.to_string())
        });
    };
    let before = Event::insert(stack);
    before.wait_for_column("device", &Json::from("ios"));
    before.wait_for_delivery();
    let dead_letters = || -> u64 {
        let document = stack.fanout.document(0, &["dlq", "ls"]);
        let counts = document["counts"].as_array().expect("a list");
        counts
            .iter()
            .filter_map(|count| count["letters"].as_u64())
            .sum()
    };
    let dead_letters_before = dead_letters();
    rename("device", "gadget");
    let content = content(stack, 100);
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, gadget)
         SELECT '{content}', 'play', now(), 65000, 'tv' FROM generate_series(1, {EVENTS})"
    ));
    wait_until_halted("clickhouse");
    wait_until_halted("http");
    // The board does not read this column.
    before.wait_for_score(content, Some(EVENTS));
    let status = stack.fanout.run(&["status", "--check"]).ends_with(5);
    status.says("public.engagement_events has no column device");
    let hint = "ALTER TABLE public.engagement_events RENAME COLUMN … TO \"device\"";
    for command in ["seed", "smoke", "verify"] {
        stack.fanout.run(&[command]).ends_with(1).says(hint);
    }
    stack.fanout.run(&RECONCILE).ends_with(6).says(hint);

    // Follow the hint. The records written in the meantime are still in the
    // log.
    rename("gadget", "device");
    wait_for_halt(stack, "clickhouse", "schema_changed");
    wait_until_halted("http");
    let reconcile = format!("hint: fanout {}", RECONCILE.join(" "));
    let verify = ["verify", "--timeout", "3s"];
    stack.fanout.run(&verify).ends_with(1).says(&reconcile);
    // Records without the column that are read only now are not dead-lettered
    // either, because the source shows that the column was altered.
    assert_eq!(dead_letters(), dead_letters_before);
    stack.fanout.document(0, &RECONCILE);
    eventually("clickhouse resumes", || {
        let sink = sink(stack, "clickhouse");
        let is_running = sink["state"] == "running";
        is_running.then_some(()).ok_or_else(|| sink.to_string())
    });
    let http_remedy = "fanout backfill --from earliest --source database --sinks http";
    let status = stack.fanout.run(&["status", "--check"]).ends_with(5);
    status.says(&format!("hint: {http_remedy}"));
    let arguments: Vec<&str> = http_remedy.split(' ').skip(1).collect();
    stack.fanout.document(0, &arguments);
    stack.wait_until_healthy();
    assert_consistent(stack);
    let accepted = stack.stores.accepted();
    let delivered = accepted.iter().filter(|call| {
        let body = &call["body"];
        body["content_id"] == content.to_string() && body["device"] == "tv"
    });
    assert_eq!(i64::try_from(delivered.count()), Ok(EVENTS));
    assert_eq!(dead_letters(), dead_letters_before);
}

/// A delete and an update made while there is no slot are missing from the log.
fn lost_slot(stack: &Stack) {
    let deleted = Event::insert(stack);
    let changed = Event::insert(stack);
    changed.wait_for_column("device", &Json::from("ios"));
    stack.kill("connect");
    eventually("the slot is free", || {
        let sql = "SELECT string_agg(pg_drop_replication_slot(slot_name)::text, '')
                   FROM pg_replication_slots WHERE NOT active";
        let remaining = "SELECT count(*)::text FROM pg_replication_slots";
        stack.stores.postgres(sql);
        check_equal(&"0".to_owned(), stack.stores.postgres_text(remaining))
    });
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {};
         UPDATE engagement_events SET device = 'unseen' WHERE id = {}",
        deleted.id, changed.id
    ));
    // `up` restarts Connect, but the connector may fail immediately.
    let _ = stack.fanout.run(&["up"]);
    wait_for_remedy(stack, &format!("fanout {}", RECONCILE.join(" ")));
    reconcile(stack);
    changed.wait_for_column("device", &Json::from("unseen"));
    assert_eq!(stack.stores.row(deleted.id), None);
}

fn deleted_connector(stack: &Stack) {
    let refused = stack.fanout.run(&["connector", "delete"]).ends_with(6);
    refused.says("hint: fanout connector delete --yes");
    let delete = ["connector", "delete", "--yes"];
    stack.fanout.run(&delete).ends_with(0);
    let shown = stack.fanout.run(&["status", "--check"]).ends_with(5);
    shown.says("hint: fanout connector");
    let event = Event::insert(stack);
    reconcile(stack);
    event.wait_for_column("device", &Json::from("ios"));
}

fn lost_offsets(stack: &Stack) {
    stack.kill("pipeline");
    let topics = Topics::new(stack);
    let groups = [
        "fanout-clickhouse",
        "fanout-content",
        "fanout-http",
        "fanout-redis",
    ];
    eventually("the groups are deleted", || topics.delete_groups(&groups));
    let event = Event::insert(stack);
    let _ = stack.fanout.run(&["up"]);
    // ClickHouse and the board recover automatically.
    event.wait_for_column("device", &Json::from("ios"));
    event.wait_for_score(event.content, Some(1));
    // Resending everything to the external system requires confirmation.
    wait_for_halt(stack, "http", "offsets_lost");
    let remedy = ["backfill", "--from", "earliest", "--sinks", "http"];
    wait_for_remedy(stack, &format!("fanout {}", remedy.join(" ")));
    stack.fanout.run(&remedy).ends_with(0);
    event.wait_for_delivery();
    stack.wait_until_healthy();
    assert_consistent(stack);
}

fn retention(stack: &Stack) {
    stack.kill("pipeline");
    let topics = Topics::new(stack);
    let before = topics.end_offsets(EVENTS);
    let events: Vec<Event<'_>> = (0..20).map(|_| Event::insert(stack)).collect();
    eventually("the events are in the log", || {
        let current: i64 = topics.end_offsets(EVENTS).iter().sum();
        let previous: i64 = before.iter().sum();
        (current > previous + 20)
            .then_some(())
            .ok_or_else(|| current.to_string())
    });
    for (partition, end) in (0..).zip(topics.end_offsets(EVENTS)) {
        topics.delete_before(EVENTS, partition, end);
    }
    let _ = stack.fanout.run(&["up"]);
    wait_for_halt(stack, "clickhouse", "retention_passed");
    wait_for_halt(stack, "http", "retention_passed");
    let degradation = sink(stack, "redis")["caution"].clone();
    assert_eq!(degradation["code"], "retention_passed", "{degradation}");
    let complete = || -> Option<String> {
        let meta = ["HGET", "{top10m}:meta", "complete"];
        stack.stores.redis(&meta)
    };
    eventually("the board is reported incomplete", || {
        check_equal(&Some("0".to_owned()), complete())
    });
    let remedy = degradation["remedy"].as_str().expect("a command");
    let arguments: Vec<&str> = remedy.split(' ').skip(1).collect();
    stack.fanout.run(&arguments).ends_with(0);
    for event in &events {
        event.wait_for_score(event.content, Some(1));
    }
    assert_eq!(sink(stack, "redis")["caution"], Json::Null);
    reconcile_with_http(stack);
    let delivered: Vec<Json> = stack.stores.accepted();
    for event in &events {
        event.wait_for_column("device", &Json::from("ios"));
        let is_delivered = delivered.iter().any(|call| call["body"]["id"] == event.id);
        assert!(is_delivered, "event {} was not delivered", event.id);
    }
    assert_consistent(stack);
}

/// The deletion is detected even if the worker has already read the deleted
/// records.
fn deleted_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    let topics = Topics::new(stack);
    topics.set_cleanup(CONTENT, "compact,delete");
    topics.delete_before(CONTENT, 0, topics.end_offsets(CONTENT)[0]);
    topics.set_cleanup(CONTENT, "compact");
    wait_for_halt(stack, "clickhouse", "retention_passed");
    assert_other_sinks_run(stack);
    reconcile(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    let another = Event::insert(stack);
    another.wait_for_column("engagement_pct", &Json::from("0.65"));
}

fn recreated_topic(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let topics = Topics::new(stack);
    topics.recreate(EVENTS, 3);
    wait_for_halt(stack, "clickhouse", "topic_changed");
    assert_other_sinks_run(stack);
    eventually("http reports topic_changed", || {
        let sink = sink(stack, "http");
        let is_reported = sink["caution"]["code"] == "topic_changed";
        is_reported.then_some(()).ok_or_else(|| sink.to_string())
    });
    stack.fanout.document(0, &RECONCILE);
    // Events of the old topic that were never delivered must be resent.
    wait_for_remedy(
        stack,
        "fanout backfill --from earliest --source database --sinks http",
    );
    reconcile_with_http(stack);
    assert_consistent(stack);
    event.change("device = 'one'", "device = 'two'");
    event.wait_for_column("device", &Json::from("two"));
}

fn added_partition(stack: &Stack) {
    let events: Vec<Event<'_>> = (0..8).map(|_| Event::insert(stack)).collect();
    let topics = Topics::new(stack);
    topics.add_partitions(EVENTS, 4);
    wait_for_halt(stack, "clickhouse", "topic_changed");
    assert_other_sinks_run(stack);
    reconcile(stack);
    for event in &events {
        event.change("device = 'one'", "device = 'two'");
    }
    for event in &events {
        event.wait_for_column("device", &Json::from("two"));
    }
    assert_consistent(stack);
}

fn wrong_table(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let table = "analytics.engagement_enriched_storage";
    stack.stores.clickhouse(&format!("DROP TABLE {table}"));
    stack.stores.clickhouse(&format!(
        "CREATE TABLE {table} (event_id Int64) ENGINE = MergeTree ORDER BY event_id"
    ));
    wait_for_halt(stack, "clickhouse", "wrong_schema");
    assert_other_sinks_run(stack);
    reconcile(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let aside =
        "SELECT count() FROM system.tables WHERE name LIKE 'engagement_enriched_storage_aside%'";
    assert_eq!(stack.stores.clickhouse(aside).trim(), "1");
    // An empty replacement table has the right schema but is detected anyway.
    stack.stores.clickhouse(&format!("DROP TABLE {table}"));
    let mut settings = Settings::default();
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    wait_for(owned::clickhouse(&Connections::of(&settings))).expect("create the tables");
    wait_for_halt(stack, "clickhouse", "table_replaced");
    reconcile(stack);
    event.wait_for_column("device", &Json::from("ios"));
}

fn wrong_key(stack: &Stack) {
    let () = stack.stores.redis(&["DEL", "top10m"]);
    let () = stack.stores.redis(&["SET", "top10m", "another"]);
    eventually("redis halts", || {
        let sink = sink(stack, "redis");
        let halted = sink["halt"]["code"] == "wrong_type";
        halted.then_some(()).ok_or_else(|| sink.to_string())
    });
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let shown = stack.fanout.run(&["status", "--check"]).ends_with(5);
    shown.says("redis-cli rename top10m top10m.old");
    let () = stack.stores.redis(&["RENAME", "top10m", "top10m.old"]);
    event.wait_for_score(event.content, Some(1));
    let kept: String = stack.stores.redis(&["GET", "top10m.old"]);
    assert_eq!(kept, "another");
    stack.wait_until_healthy();
}

/// A stale copy of the board and its metadata is overwritten.
fn stale_board(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    for key in ["top10m", "{top10m}:meta"] {
        let () = stack
            .stores
            .redis(&["COPY", key, &format!("{key}.old"), "REPLACE"]);
    }
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {}",
        event.id
    ));
    event.wait_for_score(event.content, None);
    for key in ["top10m", "{top10m}:meta"] {
        let () = stack
            .stores
            .redis(&["COPY", &format!("{key}.old"), key, "REPLACE"]);
    }
    event.wait_for_score(event.content, None);
    assert_consistent(stack);
}

fn killed_rebuild(stack: &Stack) {
    let seed = ["seed", "--events", "3000", "--content", "10"];
    stack.fanout.run(&seed).ends_with(0);
    let mut first = stack
        .fanout
        .command(&RECONCILE)
        .stderr(Stdio::null())
        .spawn()
        .expect("start the binary");
    let journal = stack.file("backfill.json");
    eventually("the rebuild has started", || {
        let text = fs::read_to_string(&journal).map_err(|error| error.to_string())?;
        let state: Json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let has_started = state["database"]["signal"].is_string();
        has_started.then_some(()).ok_or(text)
    });
    first.kill().expect("kill the backfill");
    let status = first.wait().expect("wait for the backfill");
    assert_eq!(
        status.code(),
        None,
        "the backfill ended before it was killed"
    );
    eventually("status reports the unfinished rebuild", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let is_reported = ended
            .stdout
            .contains("a rebuild from the source is unfinished");
        (ended.code == Some(5) && is_reported)
            .then_some(())
            .ok_or_else(|| ended.evidence())
    });
    let before = generations(stack);
    assert!(!before.is_empty());
    let report = reconcile(stack);
    assert!(report["plan"]["resumes"].is_string(), "{report:#}");
    assert_eq!(
        generations(stack),
        before,
        "the rebuild resumes its generation"
    );
}

/// Returns the keys of the recorded generations in the state topic.
fn generations(stack: &Stack) -> BTreeSet<String> {
    let keys = records(stack, "fanout.state").into_iter();
    let keys = keys.filter_map(|record| String::from_utf8(record.key?).ok());
    let is_generation = |key: &String| {
        let name = key.strip_prefix("generation/");
        name.is_some_and(|name| !name.contains('/'))
    };
    keys.filter(is_generation).collect()
}
