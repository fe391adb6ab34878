//! A truncate of the source: the log does not say which rows are gone, so
//! ClickHouse halts with its remedy while the other sinks go on.

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, eventually, records},
};

/// The tests. What comes after needs another stack.
pub const TESTS: &[Test] = &[("a_truncate_arrives_and_halts_clickhouse_alone", a_truncate)];

fn a_truncate(stack: &Stack) {
    let before = Event::insert(stack);
    before.scores(before.content, Some(1));
    eventually("the row is stored", || {
        stack
            .stores
            .row(before.id)
            .ok_or_else(|| "it is not".to_owned())
    });
    stack.stores.postgres("TRUNCATE engagement_events");
    eventually("the truncate is in the log", || {
        let records = records(stack, "cdc.public.engagement_events");
        let is_truncate = |value: &Vec<u8>| {
            let value: Json = serde_json::from_slice(value).unwrap_or_default();
            value["op"] == "t"
        };
        let there = records
            .iter()
            .filter_map(|record| record.value.as_ref())
            .any(is_truncate);
        there
            .then_some(())
            .ok_or_else(|| format!("it is not among {} records", records.len()))
    });
    eventually("clickhouse halts", || {
        let sink = sink(stack, "clickhouse");
        let halted = sink["state"] == "halted" && sink["halt"]["code"] == "truncated";
        halted.then_some(()).ok_or_else(|| sink.to_string())
    });
    let remedy = sink(stack, "clickhouse")["halt"]["remedy"].clone();
    let remedy = remedy.as_str().expect("a remedy");
    stack
        .fanout
        .run(&["status", "--check"])
        .ends_with(5)
        .says(remedy);

    let after = Event::insert(stack);
    after.scores(after.content, Some(1));
    before.scores(before.content, None);
    eventually("the external system is told", || {
        let accepted = stack.stores.accepted();
        let told = accepted.iter().any(|call| call["body"]["id"] == after.id);
        told.then_some(())
            .ok_or_else(|| format!("not among {} calls", accepted.len()))
    });
    for name in ["redis", "http"] {
        assert_eq!(sink(stack, name)["state"], "running");
    }
    // Nothing is guessed: the rows from before are there, none has come since.
    assert!(stack.stores.row(before.id).is_some());
    assert!(stack.stores.row(after.id).is_none());
}

/// What `status` says of a sink.
fn sink(stack: &Stack, name: &str) -> Json {
    let status = stack.status();
    let sinks = status["sinks"].as_array().expect("sinks");
    let sink = sinks.iter().find(|sink| sink["name"] == name);
    sink.unwrap_or_else(|| panic!("{status:#}")).clone()
}
