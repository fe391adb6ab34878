//! What records mean that only a real connector and real servers can show: texts
//! that look like a placeholder, and columns that nobody reads.

use fanout::{clients::Connections, config::Settings, operations::objects};
use serde_json::{Value as Json, json};

use crate::{
    Test,
    cases::case,
    support::{Bench, Event, Producer, Record, Stack, Topics, eventually, records, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "a_stored_text_is_never_taken_for_a_placeholder",
        stored_texts,
    ),
    ("an_older_connector_is_given_a_placeholder", older_connector),
    ("a_column_that_nobody_reads_has_no_effect", unread_columns),
    ("a_table_of_content_from_before_takes_content", older_table),
    (
        "a_content_that_cannot_be_read_leaves_what_it_was",
        bad_content,
    ),
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// Debezium's own placeholder.
const DEBEZIUMS_OWN: &str = "__debezium_unavailable_value";

const PLACEHOLDER: &str = "unavailable.value.placeholder";

/// What Connect has the connector configured with.
pub fn configuration(stack: &Stack) -> Json {
    let url = format!("{}/config", connector(stack));
    wait_for(async { reqwest::get(url).await.expect("connect").json().await }).expect("a document")
}

fn connector(stack: &Stack) -> String {
    let connect = stack.stores.url("FANOUT_CONNECT_URL");
    format!("{connect}/connectors/pg-engagement-cdc")
}

/// What the project knows of its placeholders.
pub fn known(stack: &Stack) -> Json {
    let key = Some(b"unavailable-value".to_vec());
    let mut of_key = records(stack, "fanout.state").into_iter();
    let last = of_key
        .rfind(|record| record.key == key)
        .expect("a document");
    serde_json::from_slice(&last.value.expect("a value")).expect("json")
}

/// Makes the stack what it was before there were placeholders of a project's
/// own.
pub fn of_before(stack: &Stack) {
    let forgotten = Record {
        key: Some(b"unavailable-value".to_vec()),
        value: None,
    };
    Producer::new(stack).write("fanout.state", 0, &forgotten);
    let mut configuration = configuration(stack);
    configuration[PLACEHOLDER] = Json::from(DEBEZIUMS_OWN);
    let request = reqwest::Client::new()
        .put(format!("{}/config", connector(stack)))
        .json(&configuration);
    let answer = wait_for(request.send()).expect("connect");
    assert!(answer.status().is_success(), "{answer:?}");
    stack.fanout.run(&["connector", "restart"]).ends_with(0);
}

fn stored_texts(stack: &Stack) {
    let chosen = configuration(stack)[PLACEHOLDER].clone();
    assert_eq!(known(stack)["placeholder"], chosen);
    let chosen = chosen.as_str().expect("a text");
    assert!(chosen.len() > DEBEZIUMS_OWN.len() + 20, "{chosen}");
    let event = Event::insert(stack);
    event.change("user_id = NULL", &format!("device = '{DEBEZIUMS_OWN}'"));
    event.becomes("device", &Json::from(DEBEZIUMS_OWN));
    // The same text before and after.
    event.change("duration_ms = 1000", "duration_ms = 2000");
    event.becomes("duration_ms", &Json::from(2000));
    event.becomes("device", &Json::from(DEBEZIUMS_OWN));
    for text in [DEBEZIUMS_OWN, chosen] {
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
        inserted.becomes("device", &Json::from(text));
        inserted.becomes("raw_payload", &Json::from(format!("\"{text}\"")));
        inserted.scores(inserted.content, Some(1));
        inserted.change("device = NULL", "user_id = NULL");
        inserted.change("user_id = NULL", &columns);
        inserted.becomes("device", &Json::from(text));
    }
    stack.verifies();
}

/// A connector of before is given a placeholder by `up`: from there on, and no
/// sooner, Debezium's own is a text like any other.
fn older_connector(stack: &Stack) {
    let old = configuration(stack)[PLACEHOLDER].clone();
    of_before(stack);
    let dry = stack
        .fanout
        .document(0, &["connector", "apply", "--dry-run"]);
    assert_eq!(dry["applied"]["changed"], json!([PLACEHOLDER]), "{dry:#}");
    let before = Topics::of(stack).ends(EVENTS);
    stack.fanout.document(0, &["up"]);
    let known = known(stack);
    let configured = configuration(stack)[PLACEHOLDER].clone();
    assert_eq!(known["placeholder"], configured, "{known:#}");
    assert_ne!(configured, old);
    assert_eq!(known["switching"], false);
    let earlier = &known["earlier"][0];
    assert_eq!(earlier["placeholder"], DEBEZIUMS_OWN, "{known:#}");
    let ends = earlier["until"][EVENTS]["offsets"]
        .as_array()
        .expect("offsets");
    let reached = before.iter().zip(ends);
    assert!(
        reached
            .clone()
            .all(|(then, end)| end.as_i64() >= Some(*then))
    );
    let event = Event::insert(stack);
    event.change("user_id = NULL", &format!("device = '{DEBEZIUMS_OWN}'"));
    event.becomes("device", &Json::from(DEBEZIUMS_OWN));
    let again = stack.fanout.document(0, &["connector", "apply"]);
    assert_eq!(again["applied"]["action"], "unchanged", "{again:#}");
    stack.verifies();
}

fn unread_columns(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    stack.stores.postgres(&format!(
        "UPDATE content SET publish_ts = 'infinity', length_seconds = 650 WHERE id = '{}'",
        event.content
    ));
    event.becomes("engagement_pct", &Json::from("0.1"));
    stack.verifies();

    let bench = Bench::new(stack, "unread");
    let worker = bench.run(&[]);
    let id = uuid::Uuid::from_u128(0xbeef);
    let prefix = bench.prefix().to_owned();
    let piece = case::content(&prefix, id, case::VIDEO);
    bench.content(&changed(&piece, |after| {
        after.retain(|column, _| column != "slug" && column != "publish_ts");
    }));
    let insert = changed(&Record::insert(&prefix, 1), |after| {
        after["content_id"] = json!(id);
    });
    bench.event(0, &insert);
    // What the board does not read keeps nothing off it.
    let otherwise = changed(&Record::insert(&prefix, 2), |after| {
        after["content_id"] = json!(id);
        after["user_id"] = json!("nobody");
        after["duration_ms"] = json!("long");
    });
    let key = Some(b"{\"id\":2}".to_vec());
    bench.event(0, &Record { key, ..otherwise });
    eventually("the row is enriched", || {
        let rows = bench.rows("content_type = 'video' AND length_seconds = 100");
        same(&1, rows.len()).map_err(|error| format!("{error}\n{}", worker.said()))
    });
    eventually("both are on the board", || {
        let board = stack.stores.board("top10m:unread")?;
        same(&Some(&2), board.get(&id.to_string()))
            .map(|_| ())
            .map_err(|error| format!("{error}\n{}", worker.said()))
    });
    for (sink, dead) in [("clickhouse", 1), ("redis", 0), ("http", 1), ("content", 0)] {
        eventually(&format!("{sink} rejects what it cannot read"), || {
            let letters = worker.sink(sink)["dead_letters"].clone();
            let count = letters.as_object().expect("counts").values();
            same(&dead, count.filter_map(Json::as_i64).sum())
        });
    }
    worker.stop();
}

/// The record with its row changed.
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
    bench.content(&case::content(bench.prefix(), id, case::VIDEO));
    eventually("the content is stored", || {
        let titles = "SELECT groupArray(title) FROM {db}.content FINAL";
        same(&"['a test']".to_owned(), bench.clickhouse(titles))
            .map_err(|error| format!("{error}\n{}", worker.said()))
    });
    // As `up` does.
    let name = "oldcontent".parse().expect("a name");
    let mut settings = Settings::for_project(&name);
    settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
    assert_eq!(bench.clickhouse(columns), "['slug','publish_ts']");
    wait_for(objects::clickhouse(&Connections::of(&settings))).expect("the tables");
    assert_eq!(bench.clickhouse(columns), "[]");
    bench.content(&case::content(
        bench.prefix(),
        uuid::Uuid::nil(),
        case::VIDEO,
    ));
    eventually("another content is stored", || {
        let count = bench.clickhouse("SELECT count() FROM {db}.content FINAL");
        same(&"2".to_owned(), count)
    });
    worker.stop();
}

/// It is a dead letter of the mirror's, and `verify` names it where it explains
/// a row.
fn bad_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    let producer = Producer::new(stack);
    let good = case::content("cdc", event.content, (Some("video"), Some(650)));
    producer.write(CONTENT, 0, &good);
    event.becomes("engagement_pct", &Json::from("0.1"));
    let differs = stack.fanout.document(5, &["verify"]);
    assert_eq!(differs["checks"][0]["excused"], 0, "{differs:#}");
    let bad = changed(&good, |after| after["length_seconds"] = json!("long"));
    let written = producer.write(CONTENT, 0, &bad);
    eventually("it is a dead letter, once", || {
        let listed = stack
            .fanout
            .document(0, &["dlq", "ls", "--sink", "content"]);
        let letters = listed["letters"].as_array().expect("letters");
        let offsets: Vec<Option<i64>> = letters.iter().map(|one| one["offset"].as_i64()).collect();
        same(&vec![Some(written.offset)], offsets).map_err(|_| listed.to_string())
    });
    let report = stack.fanout.document(0, &["verify"]);
    let rows = &report["checks"][0];
    assert_eq!(
        rows["excused_ids"],
        json!([event.id.to_string()]),
        "{report:#}"
    );
    let place = format!("{CONTENT}/0@{}", written.offset);
    let note = rows["notes"][0].as_str().expect("a note");
    assert!(note.contains(&place), "{note}");
    event.becomes("engagement_pct", &Json::from("0.1"));
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 1000 WHERE id = '{}'",
        event.content
    ));
    event.becomes("engagement_pct", &Json::from("0.07"));
    stack.verifies();
}
