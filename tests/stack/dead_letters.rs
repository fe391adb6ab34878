//! Dead letters: replayed at their records' positions, and purged.

use serde_json::{Value as Json, json};

use crate::{
    Test,
    support::{Bench, Fanout, Record, Stack, Worker, check_equal, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "a_dead_letter_is_replayed_at_its_records_position",
        original_position,
    ),
    (
        "calls_are_repeated_only_after_confirmation",
        confirmed_calls,
    ),
    ("purged_dead_letters_still_account_for_their_records", purge),
];

/// Starts a pipeline whose external system rejects all calls.
fn run_with_rejections(bench: &Bench) -> Worker {
    bench.set_faults(&json!({"fail_rate": 1.0, "status": 422}));
    bench.run(&[])
}

fn list_dead_letters(bench: &Bench, filter: &[&str]) -> Json {
    let arguments: Vec<&str> = ["dlq", "ls"].iter().chain(filter).copied().collect();
    bench.fanout().document(0, &arguments)
}

/// Waits until a sink has `count` dead letters, and returns them.
fn wait_for_dead_letters(bench: &Bench, sink: &str, count: usize) -> Vec<Json> {
    eventually(&format!("{count} dead letters of {sink}"), || {
        let listed = list_dead_letters(bench, &["--sink", sink]);
        let listed = listed["letters"].as_array().expect("letters");
        check_equal(&count, listed.len()).map(|_| listed.clone())
    })
}

/// Returns the number of dead letters by sink, according to `status`.
fn dead_letter_counts(fanout: &Fanout) -> Vec<(&'static str, u64)> {
    let counts = fanout.document(0, &["status"])["dead_letters"]["counts"].clone();
    let count = |sink: &str| -> u64 {
        let codes = counts[sink].as_object().into_iter().flatten();
        codes.filter_map(|(_, count)| count.as_u64()).sum()
    };
    let sinks = ["clickhouse", "http", "redis"];
    sinks.map(|sink| (sink, count(sink))).to_vec()
}

/// Replays dead letters that an earlier version may have left, whose records
/// the current version can decode.
fn original_position(stack: &Stack) {
    let bench = Bench::new(stack, "inplace");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    let undecodable = Record::undecodable();
    let first = bench.write_event(0, &undecodable);
    let second = bench.write_event(0, &undecodable);
    bench.insert(0, 1);
    let rejected = wait_for_dead_letters(&bench, "clickhouse", 2);
    eventually("the row is stored", || {
        check_equal(&1, bench.rows("1").len())
    });
    // The first rejected record is an older change of the stored event. The
    // second is the only record of another event.
    for (written, id) in [(first, 1), (second, 2)] {
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
            ("fanout-offset", written.offset.to_string()),
            (
                "fanout-generation",
                rejected[0]["generation"].as_str().expect("text").to_owned(),
            ),
        ];
        bench.write_dead_letter(&record, &headers);
    }
    let end = bench.end_offset(0);
    let report = bench.fanout().document(0, &["dlq", "replay"]);
    let done = &report["done"];
    assert_eq!(done["replayed"]["clickhouse"]["applied"], 2, "{report:#}");
    assert_eq!(
        done["still_rejected"].as_array().map(Vec::len),
        Some(0),
        "the new dead letters replace the original ones: {report:#}"
    );
    let devices = "SELECT groupArray((event_id, device)) FROM {db}.engagement_enriched";
    assert_eq!(bench.clickhouse(devices), "[(1,'ios'),(2,'old')]");
    let offsets = "SELECT groupArray(_offset) FROM {db}.engagement_enriched_storage \
                  FINAL WHERE event_id = 2";
    assert_eq!(bench.clickhouse(offsets), format!("[{}]", second.offset));
    assert_eq!(
        bench.end_offset(0),
        end,
        "nothing is written into the source"
    );
    worker.stop();
}

fn confirmed_calls(stack: &Stack) {
    let bench = Bench::new(stack, "outside");
    let worker = run_with_rejections(&bench);
    for id in 0..3 {
        bench.insert(0, id);
    }
    bench.write_event(
        1,
        &Record {
            key: None,
            value: Some(b"[]".to_vec()),
        },
    );
    wait_for_dead_letters(&bench, "http", 4);
    wait_for_dead_letters(&bench, "redis", 1);
    wait_for_dead_letters(&bench, "clickhouse", 1);
    assert_eq!(bench.accepted().len(), 0);
    let fanout = bench.fanout();
    worker.stop();
    assert_eq!(
        dead_letter_counts(fanout),
        [("clickhouse", 1), ("http", 4), ("redis", 1)]
    );
    // A new worker has not counted the existing dead letters.
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
    // A second replay uses the same idempotency keys, so no call is accepted
    // twice.
    fanout.run(&["dlq", "replay", "--yes"]).ends_with(0);
    assert_eq!(keys(&bench.accepted()), once);
    let unknown = fanout.run(&["dlq", "replay", "0:4711"]).ends_with(1);
    unknown.says("no dead letter 0:4711");
    worker.stop();
}

fn purge(stack: &Stack) {
    let bench = Bench::new(stack, "purge");
    let worker = bench.run(&["--sinks", "clickhouse"]);
    bench.write_event(
        0,
        &Record {
            key: Some(b"{\"id\":7}".to_vec()),
            value: Some(b"42".to_vec()),
        },
    );
    wait_for_dead_letters(&bench, "clickhouse", 1);
    let fanout = bench.fanout();
    fanout.run(&["dlq", "purge"]).ends_with(6).says("--yes");
    wait_for_dead_letters(&bench, "clickhouse", 1);
    let report = fanout.document(0, &["dlq", "purge", "--yes"]);
    assert_eq!(report["done"], json!({"letters": 1, "accounted": 1}));
    assert_eq!(
        dead_letter_counts(fanout),
        [("clickhouse", 0), ("http", 0), ("redis", 0)]
    );
    let listed = list_dead_letters(&bench, &[]);
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
