//! Changes made to the source without fanout: changes that lose data are
//! detected and reported, `up` reports its repairs, and the sinks stay degraded
//! until the history is reconciled.

use fanout::connections::{Connection, postgres::Postgres};
use serde_json::Value as Json;

use crate::{
    Test,
    history::{RECONCILE, reconcile, sink},
    support::{Ended, Event, Stack, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "a_table_removed_from_the_publication_is_reported_until_reconciled",
        unpublished_table,
    ),
    (
        "a_change_reverted_while_the_pipeline_was_down_is_detected",
        reverted_changes,
    ),
    (
        "a_table_with_an_unsupported_schema_halts_the_sinks_that_read_it",
        unsupported_schema,
    ),
    (
        "a_dropped_table_is_replaced_only_after_confirmation",
        dropped_table,
    ),
    ("a_table_replaced_by_a_rename_is_followed", swapped_table),
    (
        "a_connector_reconfigured_by_another_client_is_reported",
        foreign_configuration,
    ),
    ("up_never_waits_for_a_table_lock", locked_table),
];

/// Waits until a sink is degraded for this reason.
fn wait_until_degraded(stack: &Stack, name: &str, code: &str) {
    eventually(&format!("{name} is degraded: {code}"), || {
        let sink = sink(stack, name);
        let degraded = sink["caution"]["code"] == code && sink["halt"].is_null();
        degraded.then_some(()).ok_or_else(|| sink.to_string())
    });
}

/// Waits until `status --check` fails and its last hint is this one.
fn wait_for_hint(stack: &Stack, hint: &str) {
    eventually(&format!("status shows the hint {hint}"), || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let is_last = ended.stdout.trim_end().ends_with(&format!("hint: {hint}"));
        let is_shown = ended.code == Some(5) && is_last;
        is_shown.then_some(()).ok_or_else(|| ended.evidence())
    });
}

fn reconcile_command() -> String {
    format!("fanout {}", RECONCILE.join(" "))
}

/// Reconciles the sinks and waits until no finding about the source remains.
fn reconcile_source(stack: &Stack) {
    reconcile(stack);
    eventually("status has no finding about the source", || {
        let source = &stack.status()["source"];
        let is_empty = source["findings"] == serde_json::json!([]);
        is_empty.then_some(()).ok_or_else(|| source.to_string())
    });
}

/// Runs `up` and asserts that it repairs something with this statement and
/// reports it. Returns the report.
fn up_with_repair(stack: &Stack, statement: &str) -> Json {
    let report = stack.fanout.document(0, &["up"]);
    assert_eq!(report["changed"], true, "{report:#}");
    let altered = report["altered"].as_array().expect("a list");
    let is_reported = altered
        .iter()
        .any(|alteration| alteration["what"] == statement);
    assert!(is_reported, "{statement} is not in {report:#}");
    report
}

fn unpublished_table(stack: &Stack) {
    stack
        .stores
        .postgres("ALTER PUBLICATION dbz_pub DROP TABLE public.engagement_events");
    let missed = Event::insert(stack);
    for name in ["redis", "clickhouse", "http"] {
        wait_until_degraded(stack, name, "publication_table");
    }
    assert!(sink(stack, "content")["caution"].is_null());
    wait_for_hint(stack, "fanout up");
    let doctor = stack.fanout.run(&["doctor"]).ends_with(5);
    doctor.says("publication dbz_pub does not include public.engagement_events");
    // A reconcile would be incomplete as long as the publication lacks the
    // table.
    stack
        .fanout
        .run(&RECONCILE)
        .ends_with(6)
        .says("hint: fanout up");
    let statement = "ALTER PUBLICATION \"dbz_pub\" ADD TABLE public.engagement_events";
    let report = up_with_repair(stack, statement);
    assert_eq!(report["remedy"], reconcile_command(), "{report:#}");
    wait_until_degraded(stack, "clickhouse", "source_changed");
    wait_for_hint(stack, &reconcile_command());
    // The degradation survives a restart of the pipeline.
    stack.kill("pipeline");
    stack.fanout.run(&["up"]).ends_with(0);
    wait_until_degraded(stack, "redis", "source_changed");
    assert_eq!(stack.stores.row(missed.id), None);
    reconcile_source(stack);
    missed.wait_for_column("device", &Json::from("ios"));
}

fn reverted_changes(stack: &Stack) {
    let row = Event::insert(stack);
    row.wait_for_column("device", &Json::from("ios"));
    stack.kill("pipeline");
    // Either change alone would be detected.
    stack
        .stores
        .postgres("ALTER PUBLICATION dbz_pub SET (publish = 'insert')");
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {}",
        row.id
    ));
    stack
        .stores
        .postgres("ALTER PUBLICATION dbz_pub SET (publish = 'insert, update, delete, truncate')");
    let filter = "ALTER PUBLICATION dbz_pub SET TABLE public.content WHERE (slug <> 'x'), \
                  public.engagement_events, public.debezium_signal, public.debezium_heartbeat";
    stack.stores.postgres(filter);
    stack
        .stores
        .postgres(&filter.replace(" WHERE (slug <> 'x')", ""));
    stack.fanout.run(&["up"]).ends_with(0);
    for name in ["redis", "clickhouse", "content", "http"] {
        wait_until_degraded(stack, name, "source_changed");
    }
    let status = stack.fanout.run(&["status"]).ends_with(0);
    let status = status.says("the publication was altered");
    status.says("public.content was not published at all times");
    assert!(stack.stores.row(row.id).is_some());
    reconcile_source(stack);
    assert_eq!(stack.stores.row(row.id), None);
}

fn unsupported_schema(stack: &Stack) {
    let key = |columns: &str| {
        stack.stores.postgres(&format!(
            "ALTER TABLE engagement_events DROP CONSTRAINT engagement_events_pkey,
             ADD CONSTRAINT engagement_events_pkey PRIMARY KEY ({columns})"
        ));
    };
    key("id, event_ts");
    for name in ["redis", "clickhouse", "http"] {
        eventually(&format!("{name} halts"), || {
            let sink = sink(stack, name);
            let halted = sink["state"] == "halted" && sink["halt"]["code"] == "source_unsupported";
            halted.then_some(()).ok_or_else(|| sink.to_string())
        });
    }
    assert_eq!(sink(stack, "content")["state"], "running");
    let found = "the primary key of public.engagement_events is (id, event_ts), not (id)";
    for (command, code) in [
        (&["status", "--check"][..], 5),
        (&["doctor"][..], 5),
        (&["up"][..], 6),
    ] {
        stack.fanout.run(command).ends_with(code).says(found);
    }
    key("id");
    eventually("the sinks resume", || {
        let halts = ["redis", "clickhouse", "http"].map(|name| sink(stack, name)["halt"].clone());
        let is_running = halts.iter().all(Json::is_null);
        is_running.then_some(()).ok_or_else(|| format!("{halts:?}"))
    });
    wait_for_hint(stack, &reconcile_command());
    reconcile_source(stack);
}

fn dropped_table(stack: &Stack) {
    let dropped = Event::insert(stack);
    dropped.wait_for_column("device", &Json::from("ios"));
    stack.stores.postgres("DROP TABLE engagement_events");
    let refused = stack.fanout.run(&["up"]).ends_with(6);
    let refused = refused.says("public.engagement_events was dropped or renamed");
    refused.says("hint: fanout up --yes");
    let count = "SELECT count(*)::text FROM pg_class WHERE relname = 'engagement_events'";
    assert_eq!(stack.stores.postgres_text(count), "0");
    let report = stack.fanout.document(0, &["up", "--yes"]);
    assert_eq!(report["remedy"], reconcile_command(), "{report:#}");
    wait_for_hint(stack, &reconcile_command());
    reconcile_source(stack);
    assert_eq!(stack.stores.row(dropped.id), None);
}

/// Swaps the tables as the last step of a schema change without downtime does.
fn swapped_table(stack: &Stack) {
    stack.stores.postgres(
        "BEGIN;
         ALTER TABLE engagement_events RENAME TO engagement_events_old;
         CREATE TABLE engagement_events (LIKE engagement_events_old INCLUDING ALL);
         INSERT INTO engagement_events SELECT * FROM engagement_events_old;
         COMMIT",
    );
    wait_for_hint(stack, "fanout up");
    let drop = "ALTER PUBLICATION \"dbz_pub\" DROP TABLE public.engagement_events_old";
    let report = up_with_repair(stack, drop);
    assert_eq!(report["remedy"], reconcile_command(), "{report:#}");
    // Rows of the old table would be mistaken for rows of the new one.
    let stray = "INSERT INTO engagement_events_old (id, event_ts) VALUES (-1, now())";
    stack.stores.postgres(stray);
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    assert_eq!(stack.stores.row(-1), None);
    reconcile_source(stack);
    stack.stores.postgres(
        "ALTER SEQUENCE engagement_events_id_seq OWNED BY engagement_events.id;
         DROP TABLE engagement_events_old;
         ALTER TABLE engagement_events ADD FOREIGN KEY (content_id) REFERENCES content (id)",
    );
}

fn foreign_configuration(stack: &Stack) {
    let connector = Connector(stack);
    connector.set("skipped.operations", "u");
    wait_until_degraded(stack, "clickhouse", "connector_config");
    wait_for_hint(stack, "fanout connector apply");
    let ended: Ended = stack.fanout.run(&["connector", "apply"]).ends_with(0);
    ended
        .says("updated: skipped.operations")
        .says(&reconcile_command());
    wait_for_hint(stack, &reconcile_command());
    // Changes skipped by the operator's own command are reported as well.
    stack
        .fanout
        .run(&["connector", "apply", "--forget-offsets", "--yes"])
        .ends_with(0);
    wait_until_degraded(stack, "http", "snapshot_repeated");
    reconcile_source(stack);
}

/// The connector, reconfigured through the REST API by another client.
struct Connector<'a>(&'a Stack);

impl Connector<'_> {
    fn set(&self, property: &str, value: &str) {
        let connect = self.0.stores.url("FANOUT_CONNECT_URL");
        let url = format!("{connect}/connectors/pg-engagement-cdc/config");
        crate::support::wait_for(async {
            let client = reqwest::Client::new();
            let response = client.get(&url).send().await.expect("connect");
            let mut config: Json = response.json().await.expect("a configuration");
            config[property] = Json::from(value);
            let response = client.put(&url).json(&config).send().await;
            let response = response.expect("connect");
            assert!(response.status().is_success(), "{response:?}");
        });
    }
}

fn locked_table(stack: &Stack) {
    let table = "ALTER TABLE content REPLICA IDENTITY";
    stack.stores.postgres(&format!("{table} DEFAULT"));
    let url = stack.stores.url("FANOUT_POSTGRES_URL");
    let postgres = Postgres::new(Connection::new(url.into()));
    let client = crate::support::wait_for(postgres.connect());
    let client = client.expect("postgres");
    let begin = "BEGIN; SELECT count(*) FROM content";
    crate::support::wait_for(client.batch_execute(begin)).expect("begin a transaction");
    let refused = stack.fanout.run(&["up"]).ends_with(4);
    let refused = refused.says("public.content is locked by pid");
    refused.says("idle in transaction");
    crate::support::wait_for(client.batch_execute("ROLLBACK")).expect("end the transaction");
    up_with_repair(stack, "ALTER TABLE public.content REPLICA IDENTITY FULL");
    stack.wait_until_healthy();
}
