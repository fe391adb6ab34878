//! Dead letters, applied again where their records were, and forgotten.

use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Bench, Fanout, Record, Stack, Worker, eventually, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("a_letter_is_applied_where_its_record_was", in_its_place),
    ("the_outside_is_told_again_only_after_a_yes", outside),
    ("purged_letters_still_account_for_their_records", purge),
];

/// A pipeline whose external system rejects everything.
fn rejecting(bench: &Bench) -> Worker {
    bench.set_faults(&json!({"fail_rate": 1.0, "status": 422}));
    bench.run(&[])
}

fn letters(bench: &Bench, filter: &[&str]) -> Json {
    let arguments: Vec<&str> = ["dlq", "ls"].iter().chain(filter).copied().collect();
    bench.fanout().document(0, &arguments)
}

/// Waits until a sink has so many letters.
fn are_there(bench: &Bench, sink: &str, count: usize) -> Vec<Json> {
    eventually(&format!("{count} letters of {sink}"), || {
        let listed = letters(bench, &["--sink", sink]);
        let listed = listed["letters"].as_array().expect("letters");
        same(&count, listed.len()).map(|_| listed.clone())
    })
}

/// How many `status` has counted, by sink.
fn counted(fanout: &Fanout) -> Vec<(&'static str, u64)> {
    let counts = fanout.document(0, &["status"])["dead_letters"]["counts"].clone();
    let of = |sink: &str| -> u64 {
        let codes = counts[sink].as_object().into_iter().flatten();
        codes.filter_map(|(_, letters)| letters.as_u64()).sum()
    };
    let sinks = ["clickhouse", "http", "redis"];
    sinks.map(|sink| (sink, of(sink))).to_vec()
}

/// Letters that an earlier program may have left: records that this one
/// understands.
fn in_its_place(stack: &Stack) {
    let bench = Bench::new(stack, "inplace");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    let garbage = Record::garbage();
    let first = bench.event(0, &garbage);
    let second = bench.event(0, &garbage);
    bench.insert(0, 1);
    let rejected = are_there(&bench, "clickhouse", 2);
    eventually("the row is stored", || same(&1, bench.rows("1").len()));
    // What was rejected first is an older change of the stored event; what was
    // rejected second, an event that there is no other record of.
    for (place, id) in [(first, 1), (second, 2)] {
        let mut record = Record::insert(bench.prefix(), id);
        let value = record.value.take().expect("a value");
        let value = String::from_utf8(value)
            .expect("text")
            .replace("ios", "old");
        record.value = Some(value.into_bytes());
        let headers = [
            ("fanout-format", "1".to_owned()),
            ("fanout-sink", "clickhouse".to_owned()),
            ("fanout-code", "by_hand".to_owned()),
            ("fanout-topic", bench.events_topic()),
            ("fanout-partition", "0".to_owned()),
            ("fanout-offset", place.offset.to_string()),
            (
                "fanout-generation",
                rejected[0]["generation"].as_str().expect("text").to_owned(),
            ),
        ];
        bench.letter(&record, &headers);
    }
    let end = bench.end(0);
    let report = bench.fanout().document(0, &["dlq", "replay"]);
    let done = &report["done"];
    assert_eq!(done["replayed"]["clickhouse"]["applied"], 2, "{report:#}");
    assert_eq!(
        done["still_rejected"].as_array().map(Vec::len),
        Some(0),
        "the letters by hand took the places: {report:#}"
    );
    let devices = "SELECT groupArray((event_id, device)) FROM {db}.engagement_enriched";
    assert_eq!(bench.clickhouse(devices), "[(1,'ios'),(2,'old')]");
    let places = "SELECT groupArray(_offset) FROM {db}.engagement_enriched_storage \
                  FINAL WHERE event_id = 2";
    assert_eq!(bench.clickhouse(places), format!("[{}]", second.offset));
    assert_eq!(bench.end(0), end, "nothing is written into the source");
    worker.stop();
}

fn outside(stack: &Stack) {
    let bench = Bench::new(stack, "outside");
    let worker = rejecting(&bench);
    for id in 0..3 {
        bench.insert(0, id);
    }
    bench.event(
        1,
        &Record {
            key: None,
            value: Some(b"[]".to_vec()),
        },
    );
    are_there(&bench, "http", 4);
    are_there(&bench, "redis", 1);
    are_there(&bench, "clickhouse", 1);
    assert_eq!(bench.accepted().len(), 0);
    let fanout = bench.fanout();
    worker.stop();
    assert_eq!(
        counted(fanout),
        [("clickhouse", 1), ("http", 4), ("redis", 1)]
    );
    // A worker that has only begun knows nothing of them.
    let worker = bench.run(&[]);
    assert_eq!(worker.sink("http")["dead_letters"], json!({}));
    // One count reads for a bounded time; the next continues where it stopped.
    eventually("all of http's dead letters are counted", || {
        let ended = fanout
            .with("FANOUT_HTTP_URL", worker.url())
            .run(&["status"]);
        let shown = ended.ends_with(0);
        let row = shown.stdout.lines().find(|line| line.starts_with("http "));
        let is_counted = row.is_some_and(|row| row.trim_end().ends_with(" 4"));
        is_counted.then_some(()).ok_or_else(|| shown.evidence())
    });
    let refused = fanout
        .run(&["dlq", "replay", "--sink", "http"])
        .ends_with(6);
    refused.says("hint: fanout --project outside dlq replay --sink http --yes");
    let report = fanout.document(0, &["dlq", "replay", "--dry-run"]);
    assert_eq!(
        report["selected"],
        json!({"clickhouse": 1, "http": 4, "redis": 1})
    );
    assert_eq!(bench.accepted().len(), 0);
    bench.set_faults(&json!({}));
    let report = fanout.document(0, &["dlq", "replay", "--yes"]);
    let done = &report["done"];
    assert_eq!(done["replayed"]["http"]["applied"], 3, "{report:#}");
    assert_eq!(done["still_rejected"].as_array().map(Vec::len), Some(2));
    assert!(done["board"].is_number(), "{report:#}");
    let keys = |accepted: &[Json]| -> Vec<Json> {
        accepted.iter().map(|call| call["key"].clone()).collect()
    };
    let once = keys(&bench.accepted());
    assert_eq!(once.len(), 3);
    // Again: the same keys, which the other side knows.
    fanout.run(&["dlq", "replay", "--yes"]).ends_with(0);
    assert_eq!(keys(&bench.accepted()), once);
    let nobody = fanout.run(&["dlq", "replay", "0:4711"]).ends_with(1);
    nobody.says("there is no dead letter 0:4711");
    worker.stop();
}

fn purge(stack: &Stack) {
    let bench = Bench::new(stack, "purge");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.event(
        0,
        &Record {
            key: Some(b"{\"id\":7}".to_vec()),
            value: Some(b"42".to_vec()),
        },
    );
    are_there(&bench, "clickhouse", 1);
    let fanout = bench.fanout();
    fanout.run(&["dlq", "purge"]).ends_with(6).says("--yes");
    are_there(&bench, "clickhouse", 1);
    let report = fanout.document(0, &["dlq", "purge", "--yes"]);
    assert_eq!(report["done"], json!({"letters": 1, "accounted": 1}));
    assert_eq!(
        counted(fanout),
        [("clickhouse", 0), ("http", 0), ("redis", 0)]
    );
    let listed = letters(&bench, &[]);
    assert_eq!(
        (&listed["letters"], &listed["purged"]),
        (&json!([]), &json!(1))
    );
    let nothing = fanout.run(&["dlq", "replay"]).ends_with(0);
    nothing.says("no dead letters");
    let again = fanout.document(0, &["dlq", "purge", "--yes"]);
    assert_eq!(again["done"], json!({"letters": 0, "accounted": 1}));
    worker.stop();
}
