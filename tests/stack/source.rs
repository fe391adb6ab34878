//! The source, altered behind fanout's back: what loses changes is noticed and
//! named, `up` says what it repairs, and the sinks say that they are not to be
//! relied on until history is reconciled.

use fanout::clients::{Connection, postgres::Postgres};
use serde_json::Value as Json;

use crate::{
    Test,
    history::{RECONCILE, mends, sink},
    support::{Ended, Event, Stack, eventually},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "a_table_taken_out_of_the_publication_is_missed_until_reconciled",
        unpublished_table,
    ),
    (
        "what_was_altered_and_altered_back_while_nobody_looked_is_noticed",
        behind_our_back,
    ),
    (
        "a_table_of_an_unsupported_shape_halts_the_sinks_that_read_it",
        unsupported_shape,
    ),
    ("a_dropped_table_is_not_replaced_in_silence", dropped_table),
    ("a_table_swapped_in_by_rename_is_followed", swapped_table),
    (
        "a_connector_reconfigured_by_somebody_else_is_noticed",
        foreign_configuration,
    ),
    ("up_never_queues_behind_a_lock", locked_table),
];

/// Waits until a sink is degraded for this reason.
fn is_degraded(stack: &Stack, name: &str, code: &str) {
    eventually(&format!("{name} is degraded: {code}"), || {
        let sink = sink(stack, name);
        let degraded = sink["caution"]["code"] == code && sink["halt"].is_null();
        degraded.then_some(()).ok_or_else(|| sink.to_string())
    });
}

/// `status --check` fails, and its last hint is this.
fn hints(stack: &Stack, hint: &str) {
    eventually(&format!("status hints {hint}"), || {
        let ended = stack.fanout.run(&["status", "--check"]);
        let hinted = ended.stdout.trim_end().ends_with(&format!("hint: {hint}"));
        let told = ended.code == Some(5) && hinted;
        told.then_some(()).ok_or_else(|| ended.evidence())
    });
}

fn reconcile() -> String {
    format!("fanout {}", RECONCILE.join(" "))
}

/// Reconciles, after which nothing is said of the source any more.
fn reconciles(stack: &Stack) {
    mends(stack);
    eventually("nothing is said of the source", || {
        let source = &stack.status()["source"];
        let silent = source["findings"] == serde_json::json!([]);
        silent.then_some(()).ok_or_else(|| source.to_string())
    });
}

/// `up`, which repairs something by this statement and says so.
fn repairs(stack: &Stack, statement: &str) -> Json {
    let report = stack.fanout.document(0, &["up"]);
    assert_eq!(report["changed"], true, "{report:#}");
    let altered = report["altered"].as_array().expect("a list");
    let told = altered.iter().any(|one| one["what"] == statement);
    assert!(told, "{statement} is not in {report:#}");
    report
}

fn unpublished_table(stack: &Stack) {
    stack
        .stores
        .postgres("ALTER PUBLICATION dbz_pub DROP TABLE public.engagement_events");
    let missed = Event::insert(stack);
    for name in ["redis", "clickhouse", "http"] {
        is_degraded(stack, name, "publication_table");
    }
    assert!(sink(stack, "content")["caution"].is_null());
    hints(stack, "fanout up");
    let doctor = stack.fanout.run(&["doctor"]).ends_with(5);
    doctor.says("publication dbz_pub does not include public.engagement_events");
    // What is read anew from such a source would be out of date at once.
    stack
        .fanout
        .run(&RECONCILE)
        .ends_with(6)
        .says("hint: fanout up");
    let statement = "ALTER PUBLICATION \"dbz_pub\" ADD TABLE public.engagement_events";
    let report = repairs(stack, statement);
    assert_eq!(report["remedy"], reconcile(), "{report:#}");
    is_degraded(stack, "clickhouse", "source_changed");
    hints(stack, &reconcile());
    // Nor does a new process forget it.
    stack.kill("pipeline");
    stack.fanout.run(&["up"]).ends_with(0);
    is_degraded(stack, "redis", "source_changed");
    assert_eq!(stack.stores.row(missed.id), None);
    reconciles(stack);
    missed.becomes("device", &Json::from("ios"));
}

fn behind_our_back(stack: &Stack) {
    let row = Event::insert(stack);
    row.becomes("device", &Json::from("ios"));
    stack.kill("pipeline");
    // Each alone would do.
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
        is_degraded(stack, name, "source_changed");
    }
    let status = stack.fanout.run(&["status"]).ends_with(0);
    let status = status.says("the publication was altered");
    status.says("public.content was not published at all times");
    assert!(stack.stores.row(row.id).is_some());
    reconciles(stack);
    assert_eq!(stack.stores.row(row.id), None);
}

fn unsupported_shape(stack: &Stack) {
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
    eventually("the sinks go on", || {
        let halted = ["redis", "clickhouse", "http"].map(|name| sink(stack, name)["halt"].clone());
        let on = halted.iter().all(Json::is_null);
        on.then_some(()).ok_or_else(|| format!("{halted:?}"))
    });
    hints(stack, &reconcile());
    reconciles(stack);
}

fn dropped_table(stack: &Stack) {
    let gone = Event::insert(stack);
    gone.becomes("device", &Json::from("ios"));
    stack.stores.postgres("DROP TABLE engagement_events");
    let refused = stack.fanout.run(&["up"]).ends_with(6);
    let refused = refused.says("public.engagement_events was dropped or renamed");
    refused.says("hint: fanout up --yes");
    let there = "SELECT count(*)::text FROM pg_class WHERE relname = 'engagement_events'";
    assert_eq!(stack.stores.postgres_text(there), "0");
    let report = stack.fanout.document(0, &["up", "--yes"]);
    assert_eq!(report["remedy"], reconcile(), "{report:#}");
    hints(stack, &reconcile());
    reconciles(stack);
    assert_eq!(stack.stores.row(gone.id), None);
}

/// What a schema change without downtime does at its end.
fn swapped_table(stack: &Stack) {
    stack.stores.postgres(
        "BEGIN;
         ALTER TABLE engagement_events RENAME TO engagement_events_old;
         CREATE TABLE engagement_events (LIKE engagement_events_old INCLUDING ALL);
         INSERT INTO engagement_events SELECT * FROM engagement_events_old;
         COMMIT",
    );
    hints(stack, "fanout up");
    let drop = "ALTER PUBLICATION \"dbz_pub\" DROP TABLE public.engagement_events_old";
    let report = repairs(stack, drop);
    assert_eq!(report["remedy"], reconcile(), "{report:#}");
    // Its rows would be taken for the new one's.
    let stray = "INSERT INTO engagement_events_old (id, event_ts) VALUES (-1, now())";
    stack.stores.postgres(stray);
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
    assert_eq!(stack.stores.row(-1), None);
    reconciles(stack);
    stack.stores.postgres(
        "ALTER SEQUENCE engagement_events_id_seq OWNED BY engagement_events.id;
         DROP TABLE engagement_events_old;
         ALTER TABLE engagement_events ADD FOREIGN KEY (content_id) REFERENCES content (id)",
    );
}

fn foreign_configuration(stack: &Stack) {
    let connector = Connector(stack);
    connector.set("skipped.operations", "u");
    is_degraded(stack, "clickhouse", "connector_config");
    hints(stack, "fanout connector apply");
    let ended: Ended = stack.fanout.run(&["connector", "apply"]).ends_with(0);
    ended.says("updated: skipped.operations").says(&reconcile());
    hints(stack, &reconcile());
    // What an operator's own command leaves out is no less missing.
    stack
        .fanout
        .run(&["connector", "apply", "--forget-offsets", "--yes"])
        .ends_with(0);
    is_degraded(stack, "http", "snapshot_repeated");
    reconciles(stack);
}

/// The connector, as anybody with `curl` can change it.
struct Connector<'a>(&'a Stack);

impl Connector<'_> {
    fn set(&self, property: &str, value: &str) {
        let connect = self.0.stores.url("FANOUT_CONNECT_URL");
        let url = format!("{connect}/connectors/pg-engagement-cdc/config");
        crate::support::wait_for(async {
            let client = reqwest::Client::new();
            let answer = client.get(&url).send().await.expect("connect");
            let mut config: Json = answer.json().await.expect("a configuration");
            config[property] = Json::from(value);
            let answer = client.put(&url).json(&config).send().await;
            let answer = answer.expect("connect");
            assert!(answer.status().is_success(), "{answer:?}");
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
    crate::support::wait_for(client.batch_execute(begin)).expect("a transaction");
    let refused = stack.fanout.run(&["up"]).ends_with(4);
    let refused = refused.says("public.content is locked by pid");
    refused.says("idle in transaction");
    crate::support::wait_for(client.batch_execute("ROLLBACK")).expect("its end");
    repairs(stack, "ALTER TABLE public.content REPLICA IDENTITY FULL");
    stack.is_well();
}
