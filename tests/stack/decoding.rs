//! Decoding of records, as far as it needs a real connector and real servers:
//! texts that look like a placeholder, and columns that no sink reads.

use fanout::{config::Settings, connections::Connections, sinks::clickhouse::owned};
use serde_json::{Value as Json, json};

use crate::{
    Test,
    cases::case,
    support::{
        Bench, Event, Producer, Record, Stack, Topics, check_equal, eventually, records, wait_for,
    },
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "a_stored_text_is_never_mistaken_for_a_placeholder",
        stored_texts,
    ),
    ("an_older_connector_gets_a_placeholder", older_connector),
    ("a_column_that_no_sink_reads_has_no_effect", unread_columns),
    (
        "a_content_table_of_an_earlier_version_is_supported",
        older_table,
    ),
    ("an_undecodable_content_keeps_the_previous_one", bad_content),
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// Debezium's default placeholder.
const DEFAULT_PLACEHOLDER: &str = "__debezium_unavailable_value";

const PLACEHOLDER: &str = "unavailable.value.placeholder";

/// Returns the connector's configuration from Connect.
pub fn configuration(stack: &Stack) -> Json {
    let url = format!("{}/config", connector(stack));
    wait_for(async { reqwest::get(url).await.expect("connect").json().await }).expect("a document")
}

fn connector(stack: &Stack) -> String {
    let connect = stack.stores.url("FANOUT_CONNECT_URL");
    format!("{connect}/connectors/pg-engagement-cdc")
}

/// Returns the placeholders that the project has recorded in its state topic.
pub fn recorded_placeholders(stack: &Stack) -> Json {
    let key = Some(b"unavailable-value".to_vec());
    let mut all = records(stack, "fanout.state").into_iter();
    let last = all.rfind(|record| record.key == key).expect("a document");
    serde_json::from_slice(&last.value.expect("a value")).expect("json")
}

/// Restores the state of the stack before projects had their own placeholders.
pub fn restore_old_placeholder(stack: &Stack) {
    let deletion = Record {
        key: Some(b"unavailable-value".to_vec()),
        value: None,
    };
    Producer::new(stack).write("fanout.state", 0, &deletion);
    let mut configuration = configuration(stack);
    configuration[PLACEHOLDER] = Json::from(DEFAULT_PLACEHOLDER);
    let request = reqwest::Client::new()
        .put(format!("{}/config", connector(stack)))
        .json(&configuration);
    let response = wait_for(request.send()).expect("connect");
    assert!(response.status().is_success(), "{response:?}");
    stack.fanout.run(&["connector", "restart"]).ends_with(0);
}

fn stored_texts(stack: &Stack) {
    let chosen = configuration(stack)[PLACEHOLDER].clone();
    assert_eq!(recorded_placeholders(stack)["placeholder"], chosen);
    let chosen = chosen.as_str().expect("a text");
    assert!(chosen.len() > DEFAULT_PLACEHOLDER.len() + 20, "{chosen}");
    let event = Event::insert(stack);
    event.change(
        "user_id = NULL",
        &format!("device = '{DEFAULT_PLACEHOLDER}'"),
    );
    event.wait_for_column("device", &Json::from(DEFAULT_PLACEHOLDER));
    // The text is the same before and after the update.
    event.change("duration_ms = 1000", "duration_ms = 2000");
    event.wait_for_column("duration_ms", &Json::from(2000));
    event.wait_for_column("device", &Json::from(DEFAULT_PLACEHOLDER));
    for text in [DEFAULT_PLACEHOLDER, chosen] {
        let inserted = Event::insert(stack);
        let columns = format!("device = '{text}', raw_payload = to_jsonb('{text}'::text)");
        stack.stores.postgres(&format!(
            "DELETE FROM engagement_events WHERE id = {id};
             INSERT INTO engagement_events (id, content_id, event_ts, duration_ms, device, raw_payload)
             VALUES ({id}, '{content}', now(), 65000, '{text}', to_jsonb('{text}'::text));
             UPDATE content SET title = '{text}' WHERE id = '{content}'",
            id = inserted.id,
            content = inserted.content,
        ));
        inserted.wait_for_column("device", &Json::from(text));
        inserted.wait_for_column("raw_payload", &Json::from(format!("\"{text}\"")));
        inserted.wait_for_score(inserted.content, Some(1));
        inserted.change("device = NULL", "user_id = NULL");
        inserted.change("user_id = NULL", &columns);
        inserted.wait_for_column("device", &Json::from(text));
    }
    stack.assert_verified();
}

/// `up` gives the connector of an earlier version a placeholder. From then on,
/// and not earlier, Debezium's default placeholder is an ordinary text.
fn older_connector(stack: &Stack) {
    let old = configuration(stack)[PLACEHOLDER].clone();
    restore_old_placeholder(stack);
    let dry = stack
        .fanout
        .document(0, &["connector", "apply", "--dry-run"]);
    assert_eq!(dry["applied"]["changed"], json!([PLACEHOLDER]), "{dry:#}");
    let before = Topics::new(stack).end_offsets(EVENTS);
    stack.fanout.document(0, &["up"]);
    let recorded = recorded_placeholders(stack);
    let configured = configuration(stack)[PLACEHOLDER].clone();
    assert_eq!(recorded["placeholder"], configured, "{recorded:#}");
    assert_ne!(configured, old);
    assert_eq!(recorded["switching"], false);
    let earlier = &recorded["earlier"][0];
    assert_eq!(earlier["placeholder"], DEFAULT_PLACEHOLDER, "{recorded:#}");
    let ends = earlier["until"][EVENTS]["offsets"]
        .as_array()
        .expect("offsets");
    let reached = before.iter().zip(ends);
    assert!(
        reached
            .clone()
            .all(|(start, end)| end.as_i64() >= Some(*start))
    );
    let event = Event::insert(stack);
    event.change(
        "user_id = NULL",
        &format!("device = '{DEFAULT_PLACEHOLDER}'"),
    );
    event.wait_for_column("device", &Json::from(DEFAULT_PLACEHOLDER));
    let reapplied = stack.fanout.document(0, &["connector", "apply"]);
    assert_eq!(reapplied["applied"]["action"], "unchanged", "{reapplied:#}");
    stack.assert_verified();
}

fn unread_columns(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    stack.stores.postgres(&format!(
        "UPDATE content SET publish_ts = 'infinity', length_seconds = 650 WHERE id = '{}'",
        event.content
    ));
    event.wait_for_column("engagement_pct", &Json::from("0.1"));
    stack.assert_verified();

    let bench = Bench::new(stack, "unread");
    let worker = bench.run(&[]);
    let id = uuid::Uuid::from_u128(0xbeef);
    let prefix = bench.prefix().to_owned();
    let content = case::content(&prefix, id, case::VIDEO);
    bench.write_content(&changed(&content, |after| {
        after.retain(|column, _| column != "slug" && column != "publish_ts");
    }));
    let insert = changed(&Record::insert(&prefix, 1), |after| {
        after["content_id"] = json!(id);
    });
    bench.write_event(0, &insert);
    // Invalid columns that the board does not read do not keep the event off
    // the board.
    let invalid = changed(&Record::insert(&prefix, 2), |after| {
        after["content_id"] = json!(id);
        after["user_id"] = json!("nobody");
        after["duration_ms"] = json!("long");
    });
    let key = Some(b"{\"id\":2}".to_vec());
    bench.write_event(0, &Record { key, ..invalid });
    eventually("the row is enriched", || {
        let rows = bench.rows("content_type = 'video' AND length_seconds = 100");
        check_equal(&1, rows.len()).map_err(|error| format!("{error}\n{}", worker.log_tail()))
    });
    eventually("both events are on the board", || {
        let board = stack.stores.board("top10m:unread")?;
        check_equal(&Some(&2), board.get(&id.to_string()))
            .map(|_| ())
            .map_err(|error| format!("{error}\n{}", worker.log_tail()))
    });
    for (sink, dead) in [("clickhouse", 1), ("redis", 0), ("http", 1), ("content", 0)] {
        eventually(
            &format!("{sink} rejects the records that it cannot decode"),
            || {
                let letters = worker.sink(sink)["dead_letters"].clone();
                let count = letters.as_object().expect("counts").values();
                check_equal(&dead, count.filter_map(Json::as_i64).sum())
            },
        );
    }
    worker.stop();
}

/// Returns the record with its row changed.
fn changed(record: &Record, change: impl FnOnce(&mut serde_json::Map<String, Json>)) -> Record {
    let value = record.value.as_deref().expect("a value");
    let mut value: Json = serde_json::from_slice(value).expect("json");
    change(value["after"].as_object_mut().expect("a row"));
    Record {
        value: Some(value.to_string().into_bytes()),
        ..record.clone()
    }
}

fn older_table(stack: &Stack) {
    let bench = Bench::new(stack, "oldcontent");
    let columns = "SELECT groupArray(name) FROM system.columns
                   WHERE database = '{db}' AND table = 'content'
                   AND name IN ('slug', 'publish_ts')";
    bench.clickhouse(
        "ALTER TABLE {db}.content ADD COLUMN slug String AFTER id,
         ADD COLUMN publish_ts DateTime64(6, 'UTC') AFTER length_seconds",
    );
    let worker = bench.run(&["--sinks", "clickhouse"]);
    let id = uuid::Uuid::from_u128(0xbeef);
    bench.write_content(&case::content(bench.prefix(), id, case::VIDEO));
    eventually("the content is stored", || {
        let titles = "SELECT groupArray(title) FROM {db}.content FINAL";
        check_equal(&"['a test']".to_owned(), bench.clickhouse(titles))
            .map_err(|error| format!("{error}\n{}", worker.log_tail()))
    });
    // Creates the tables as `up` does.
    let name = "oldcontent".parse().expect("a name");
    let mut settings = Settings::for_project(&name);
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    assert_eq!(bench.clickhouse(columns), "['slug','publish_ts']");
    wait_for(owned::clickhouse(&Connections::of(&settings))).expect("create the tables");
    assert_eq!(bench.clickhouse(columns), "[]");
    bench.write_content(&case::content(
        bench.prefix(),
        uuid::Uuid::nil(),
        case::VIDEO,
    ));
    eventually("another content is stored", || {
        let count = bench.clickhouse("SELECT count() FROM {db}.content FINAL");
        check_equal(&"2".to_owned(), count)
    });
    worker.stop();
}

/// The record becomes one dead letter of the `content` sink, and `verify`
/// reports it if it explains a row.
fn bad_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    let producer = Producer::new(stack);
    let good = case::content("cdc", event.content, (Some("video"), Some(650)));
    producer.write(CONTENT, 0, &good);
    event.wait_for_column("engagement_pct", &Json::from("0.1"));
    let differs = stack.fanout.document(5, &["verify"]);
    assert_eq!(differs["checks"][0]["excused"], 0, "{differs:#}");
    let bad = changed(&good, |after| after["length_seconds"] = json!("long"));
    let written = producer.write(CONTENT, 0, &bad);
    eventually("the content is dead-lettered once", || {
        let listed = stack
            .fanout
            .document(0, &["dlq", "ls", "--sink", "content"]);
        let dead_letters = listed["letters"].as_array().expect("letters");
        let offsets: Vec<Option<i64>> = dead_letters
            .iter()
            .map(|letter| letter["offset"].as_i64())
            .collect();
        check_equal(&vec![Some(written.offset)], offsets).map_err(|_| listed.to_string())
    });
    let report = stack.fanout.document(0, &["verify"]);
    let rows = &report["checks"][0];
    assert_eq!(
        rows["excused_ids"],
        json!([event.id.to_string()]),
        "{report:#}"
    );
    let position = format!("{CONTENT}/0@{}", written.offset);
    let note = rows["notes"][0].as_str().expect("a note");
    assert!(note.contains(&position), "{note}");
    event.wait_for_column("engagement_pct", &Json::from("0.1"));
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 1000 WHERE id = '{}'",
        event.content
    ));
    event.wait_for_column("engagement_pct", &Json::from("0.07"));
    stack.assert_verified();
}
