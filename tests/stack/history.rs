//! Breaks in history: each is noticed and named, the other sinks go on, and one
//! command mends them all.

use std::{collections::BTreeSet, fs, process::Stdio};

use fanout::{clients::Connections, config::Settings, operations::objects};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, Topics, content, eventually, records, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("a_part_of_the_source_is_read_anew", part_of_the_source),
    ("what_the_source_does_not_have_is_pruned", pruned),
    ("a_truncate_is_mended", truncate),
    (
        "a_truncate_of_the_content_reaches_its_events",
        truncated_content,
    ),
    ("a_renamed_column_is_mended", renamed_column),
    ("a_lost_slot_is_mended", lost_slot),
    ("a_deleted_connector_is_mended", deleted_connector),
    ("lost_offsets_are_read_again", lost_offsets),
    ("records_gone_before_they_were_read_are_mended", retention),
    ("contents_gone_from_the_log_are_mended", content_gone),
    ("a_recreated_topic_is_mended", recreated_topic),
    ("an_added_partition_is_mended", added_partition),
    ("a_table_of_another_shape_is_mended", wrong_table),
    ("a_key_of_another_type_is_named", wrong_key),
    ("an_old_redis_is_overwritten", old_redis),
    ("a_killed_rebuild_says_so_and_goes_on", killed_rebuild),
];

/// The one remedy.
pub const RECONCILE: [&str; 6] = [
    "backfill", "--from", "earliest", "--source", "database", "--prune",
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// What `status` says of a sink; null where the pipeline says nothing.
pub fn sink(stack: &Stack, name: &str) -> Json {
    let status = stack.status();
    let sinks = status["sinks"].as_array().expect("sinks");
    let sink = sinks.iter().find(|sink| sink["name"] == name);
    sink.cloned().unwrap_or_default()
}

/// Waits until a sink halts for this, and sees that `status` names the remedy.
fn halts(stack: &Stack, name: &str, code: &str) {
    eventually(&format!("{name} halts for {code}"), || {
        let sink = sink(stack, name);
        let halted = sink["state"] == "halted" && sink["halt"]["code"] == code;
        halted.then_some(()).ok_or_else(|| sink.to_string())
    });
    is_named(stack, "fanout backfill --from earliest ");
}

/// Waits until `status` names this remedy first.
fn is_named(stack: &Stack, remedy: &str) {
    eventually("the remedy is named", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let hint = format!("hint: {remedy}");
        let named = ended.code == Some(5) && ended.stdout.contains(&hint);
        named.then_some(()).ok_or_else(|| ended.evidence())
    });
}

/// `verify` finds no difference; what history no longer tells it says itself.
fn agrees(stack: &Stack) {
    stack.fanout.run(&["verify"]).ends_with(0);
}

/// Mends, and sees that everything agrees.
pub fn mends(stack: &Stack) -> Json {
    let report = stack.fanout.document(0, &RECONCILE);
    assert_eq!(report["plan"]["rebuilds"], true, "{report:#}");
    stack.is_well();
    agrees(stack);
    report
}

/// The same, and tells the external system all of the source again.
fn mends_outside_too(stack: &Stack) {
    let mut all = RECONCILE.to_vec();
    all.extend(["--sinks", "clickhouse,http"]);
    stack.fanout.document(0, &all);
    stack.is_well();
}

/// The board and the external system take an event whatever else is halted.
fn others_go_on(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    event.is_told();
}

fn part_of_the_source(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
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
    agrees(stack);
}

/// A row that nothing in the log says is gone.
fn pruned(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
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
    agrees(stack);
}

fn truncate(stack: &Stack) {
    let before = Event::insert(stack);
    before.becomes("device", &Json::from("ios"));
    stack.stores.postgres("TRUNCATE engagement_events");
    halts(stack, "clickhouse", "truncated");
    others_go_on(stack);
    let report = mends(stack);
    assert!(report["done"]["pruned"].as_u64() > Some(0), "{report:#}");
    assert_eq!(stack.stores.row(before.id), None);
    let after = Event::insert(stack);
    after.becomes("engagement_pct", &Json::from("0.65"));
}

/// The content alone: its events stay, without what it said.
fn truncated_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    let key = "engagement_events_content_id_fkey";
    stack.stores.postgres(&format!(
        "ALTER TABLE engagement_events DROP CONSTRAINT {key}; TRUNCATE content"
    ));
    event.becomes("engagement_pct", &Json::Null);
    let again = content(stack, 650);
    stack.stores.postgres(&format!(
        "UPDATE content SET id = '{}' WHERE id = '{again}'",
        event.content
    ));
    event.becomes("engagement_pct", &Json::from("0.1"));
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE content_id NOT IN (SELECT id FROM content);
         ALTER TABLE engagement_events ADD CONSTRAINT {key}
         FOREIGN KEY (content_id) REFERENCES content (id)"
    ));
    agrees(stack);
}

/// From then on every record lacks the column: those who read it halt, and each
/// hint leads a step back to where everything agrees.
fn renamed_column(stack: &Stack) {
    const EVENTS: i64 = 25;
    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER TABLE engagement_events RENAME COLUMN {from} TO {to}");
        stack.stores.postgres(&sql);
    };
    let is_halted = |name: &str| {
        eventually(&format!("{name} halts"), || {
            let sink = sink(stack, name);
            let halted = sink["state"] == "halted" && sink["halt"]["code"] == "schema_changed";
            halted.then_some(()).ok_or_else(|| sink.to_string())
        });
    };
    let before = Event::insert(stack);
    before.becomes("device", &Json::from("ios"));
    before.is_told();
    let letters = || -> u64 {
        let document = stack.fanout.document(0, &["dlq", "ls"]);
        let counts = document["counts"].as_array().expect("a list");
        counts
            .iter()
            .filter_map(|one| one["letters"].as_u64())
            .sum()
    };
    let letters_before = letters();
    rename("device", "gadget");
    let content = content(stack, 100);
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, gadget)
         SELECT '{content}', 'play', now(), 65000, 'tv' FROM generate_series(1, {EVENTS})"
    ));
    is_halted("clickhouse");
    is_halted("http");
    // It reads no such column.
    before.scores(content, Some(EVENTS));
    let status = stack.fanout.run(&["status", "--check"]).ends_with(5);
    status.says("public.engagement_events has no column device");
    let hint = "ALTER TABLE public.engagement_events RENAME COLUMN … TO \"device\"";
    for command in ["seed", "smoke", "verify"] {
        stack.fanout.run(&[command]).ends_with(1).says(hint);
    }
    stack.fanout.run(&RECONCILE).ends_with(6).says(hint);

    // The hint is followed; what came meanwhile is still in the log.
    rename("gadget", "device");
    halts(stack, "clickhouse", "schema_changed");
    is_halted("http");
    let reconcile = format!("hint: fanout {}", RECONCILE.join(" "));
    let verify = ["verify", "--timeout", "3s"];
    stack.fanout.run(&verify).ends_with(1).says(&reconcile);
    // Also those that are met only now: that the column was altered can be seen.
    assert_eq!(letters(), letters_before);
    stack.fanout.document(0, &RECONCILE);
    eventually("clickhouse goes on", || {
        let sink = sink(stack, "clickhouse");
        let runs = sink["state"] == "running";
        runs.then_some(()).ok_or_else(|| sink.to_string())
    });
    let outside = "fanout backfill --from earliest --source database --sinks http";
    let status = stack.fanout.run(&["status", "--check"]).ends_with(5);
    status.says(&format!("hint: {outside}"));
    let arguments: Vec<&str> = outside.split(' ').skip(1).collect();
    stack.fanout.document(0, &arguments);
    stack.is_well();
    agrees(stack);
    let accepted = stack.stores.accepted();
    let told = accepted.iter().filter(|call| {
        let body = &call["body"];
        body["content_id"] == content.to_string() && body["device"] == "tv"
    });
    assert_eq!(i64::try_from(told.count()), Ok(EVENTS));
    assert_eq!(letters(), letters_before);
}

/// What happened while nobody listened is in no log: a delete, and an update.
fn lost_slot(stack: &Stack) {
    let gone = Event::insert(stack);
    let changed = Event::insert(stack);
    changed.becomes("device", &Json::from("ios"));
    stack.kill("connect");
    eventually("the slot is free", || {
        let sql = "SELECT string_agg(pg_drop_replication_slot(slot_name)::text, '')
                   FROM pg_replication_slots WHERE NOT active";
        let left = "SELECT count(*)::text FROM pg_replication_slots";
        stack.stores.postgres(sql);
        same(&"0".to_owned(), stack.stores.postgres_text(left))
    });
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {};
         UPDATE engagement_events SET device = 'unseen' WHERE id = {}",
        gone.id, changed.id
    ));
    // It brings Connect back; the connector runs for a moment, or not at all.
    let _ = stack.fanout.run(&["up"]);
    is_named(stack, &format!("fanout {}", RECONCILE.join(" ")));
    mends(stack);
    changed.becomes("device", &Json::from("unseen"));
    assert_eq!(stack.stores.row(gone.id), None);
}

fn deleted_connector(stack: &Stack) {
    let refused = stack.fanout.run(&["connector", "delete"]).ends_with(6);
    refused.says("hint: fanout connector delete --yes");
    let delete = ["connector", "delete", "--yes"];
    stack.fanout.run(&delete).ends_with(0);
    let shown = stack.fanout.run(&["status", "--check"]).ends_with(5);
    shown.says("hint: fanout connector");
    let event = Event::insert(stack);
    mends(stack);
    event.becomes("device", &Json::from("ios"));
}

fn lost_offsets(stack: &Stack) {
    stack.kill("pipeline");
    let topics = Topics::of(stack);
    let groups = [
        "fanout-clickhouse",
        "fanout-content",
        "fanout-http",
        "fanout-redis",
    ];
    eventually("the groups are gone", || topics.delete_groups(&groups));
    let event = Event::insert(stack);
    let _ = stack.fanout.run(&["up"]);
    // ClickHouse and the board make up for it by themselves.
    event.becomes("device", &Json::from("ios"));
    event.scores(event.content, Some(1));
    // To tell the outside everything again takes consent.
    halts(stack, "http", "offsets_lost");
    let remedy = ["backfill", "--from", "earliest", "--sinks", "http"];
    is_named(stack, &format!("fanout {}", remedy.join(" ")));
    stack.fanout.run(&remedy).ends_with(0);
    event.is_told();
    stack.is_well();
    agrees(stack);
}

fn retention(stack: &Stack) {
    stack.kill("pipeline");
    let topics = Topics::of(stack);
    let before = topics.ends(EVENTS);
    let events: Vec<Event<'_>> = (0..20).map(|_| Event::insert(stack)).collect();
    eventually("they are in the log", || {
        let now: i64 = topics.ends(EVENTS).iter().sum();
        let was: i64 = before.iter().sum();
        (now > was + 20)
            .then_some(())
            .ok_or_else(|| now.to_string())
    });
    for (partition, end) in (0..).zip(topics.ends(EVENTS)) {
        topics.delete_before(EVENTS, partition, end);
    }
    let _ = stack.fanout.run(&["up"]);
    halts(stack, "clickhouse", "retention_passed");
    halts(stack, "http", "retention_passed");
    let caution = sink(stack, "redis")["caution"].clone();
    assert_eq!(caution["code"], "retention_passed", "{caution}");
    let complete = || -> Option<String> {
        let meta = ["HGET", "{top10m}:meta", "complete"];
        stack.stores.redis(&meta)
    };
    eventually("the board says that it lacks events", || {
        same(&Some("0".to_owned()), complete())
    });
    let remedy = caution["remedy"].as_str().expect("a command");
    let words: Vec<&str> = remedy.split(' ').skip(1).collect();
    stack.fanout.run(&words).ends_with(0);
    for event in &events {
        event.scores(event.content, Some(1));
    }
    assert_eq!(sink(stack, "redis")["caution"], Json::Null);
    mends_outside_too(stack);
    let told: Vec<Json> = stack.stores.accepted();
    for event in &events {
        event.becomes("device", &Json::from("ios"));
        let is_told = told.iter().any(|call| call["body"]["id"] == event.id);
        assert!(is_told, "{} is not told", event.id);
    }
    agrees(stack);
}

/// Also for a worker that has read them before.
fn content_gone(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    let topics = Topics::of(stack);
    topics.set_cleanup(CONTENT, "compact,delete");
    topics.delete_before(CONTENT, 0, topics.ends(CONTENT)[0]);
    topics.set_cleanup(CONTENT, "compact");
    halts(stack, "clickhouse", "retention_passed");
    others_go_on(stack);
    mends(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    let again = Event::insert(stack);
    again.becomes("engagement_pct", &Json::from("0.65"));
}

fn recreated_topic(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
    let topics = Topics::of(stack);
    topics.recreate(EVENTS, 3);
    halts(stack, "clickhouse", "topic_changed");
    others_go_on(stack);
    eventually("http says that it was", || {
        let sink = sink(stack, "http");
        let said = sink["caution"]["code"] == "topic_changed";
        said.then_some(()).ok_or_else(|| sink.to_string())
    });
    stack.fanout.document(0, &RECONCILE);
    // What the topic had and was not sent only a repetition makes up for.
    is_named(
        stack,
        "fanout backfill --from earliest --source database --sinks http",
    );
    mends_outside_too(stack);
    agrees(stack);
    event.change("device = 'one'", "device = 'two'");
    event.becomes("device", &Json::from("two"));
}

fn added_partition(stack: &Stack) {
    let events: Vec<Event<'_>> = (0..8).map(|_| Event::insert(stack)).collect();
    let topics = Topics::of(stack);
    topics.add_partitions(EVENTS, 4);
    halts(stack, "clickhouse", "topic_changed");
    others_go_on(stack);
    mends(stack);
    for event in &events {
        event.change("device = 'one'", "device = 'two'");
    }
    for event in &events {
        event.becomes("device", &Json::from("two"));
    }
    agrees(stack);
}

fn wrong_table(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
    let table = "analytics.engagement_enriched_storage";
    stack.stores.clickhouse(&format!("DROP TABLE {table}"));
    stack.stores.clickhouse(&format!(
        "CREATE TABLE {table} (event_id Int64) ENGINE = MergeTree ORDER BY event_id"
    ));
    halts(stack, "clickhouse", "wrong_schema");
    others_go_on(stack);
    mends(stack);
    event.becomes("device", &Json::from("ios"));
    let aside =
        "SELECT count() FROM system.tables WHERE name LIKE 'engagement_enriched_storage_aside%'";
    assert_eq!(stack.stores.clickhouse(aside).trim(), "1");
    // An empty one looks right, and is noticed all the same.
    stack.stores.clickhouse(&format!("DROP TABLE {table}"));
    let mut settings = Settings::default();
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    wait_for(objects::clickhouse(&Connections::of(&settings))).expect("the tables");
    halts(stack, "clickhouse", "table_replaced");
    mends(stack);
    event.becomes("device", &Json::from("ios"));
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
    event.becomes("device", &Json::from("ios"));
    let shown = stack.fanout.run(&["status", "--check"]).ends_with(5);
    shown.says("redis-cli rename top10m top10m.old");
    let () = stack.stores.redis(&["RENAME", "top10m", "top10m.old"]);
    event.scores(event.content, Some(1));
    let kept: String = stack.stores.redis(&["GET", "top10m.old"]);
    assert_eq!(kept, "another");
    stack.is_well();
}

/// A board, and what is said of it, from before.
fn old_redis(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    for key in ["top10m", "{top10m}:meta"] {
        let () = stack
            .stores
            .redis(&["COPY", key, &format!("{key}.old"), "REPLACE"]);
    }
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {}",
        event.id
    ));
    event.scores(event.content, None);
    for key in ["top10m", "{top10m}:meta"] {
        let () = stack
            .stores
            .redis(&["COPY", &format!("{key}.old"), key, "REPLACE"]);
    }
    event.scores(event.content, None);
    agrees(stack);
}

fn killed_rebuild(stack: &Stack) {
    let seed = ["seed", "--events", "3000", "--content", "10"];
    stack.fanout.run(&seed).ends_with(0);
    let mut first = stack
        .fanout
        .command(&RECONCILE)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let journal = stack.file("backfill.json");
    eventually("history has begun anew", || {
        let text = fs::read_to_string(&journal).map_err(|error| error.to_string())?;
        let kept: Json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let begun = kept["database"]["signal"].is_string();
        begun.then_some(()).ok_or(text)
    });
    first.kill().expect("it was there");
    let status = first.wait().expect("it ends");
    assert_eq!(status.code(), None, "it ended before it was killed");
    eventually("it is said", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let said = ended
            .stdout
            .contains("a rebuild from the source has begun and is not done");
        (ended.code == Some(5) && said)
            .then_some(())
            .ok_or_else(|| ended.evidence())
    });
    let before = generations(stack);
    assert!(!before.is_empty());
    let report = mends(stack);
    assert!(report["plan"]["resumes"].is_string(), "{report:#}");
    assert_eq!(generations(stack), before, "the same one goes on");
}

/// The generations that have begun, by their keys in the state topic.
fn generations(stack: &Stack) -> BTreeSet<String> {
    let keys = records(stack, "fanout.state").into_iter();
    let keys = keys.filter_map(|record| String::from_utf8(record.key?).ok());
    let begins = |key: &String| {
        let name = key.strip_prefix("generation/");
        name.is_some_and(|name| !name.contains('/'))
    };
    keys.filter(begins).collect()
}
