//! `BENCH_ONLY=reenrich make bench`: measures how long a content change takes
//! to reach the stored rows of a large table, and how long new events are
//! delayed in the meantime.
//!
//! ClickHouse itself generates the `BENCH_ROWS` rows (default 20,000,000): a
//! tenth belongs to one content, a two-hundredth to another, ten rows to a
//! third, and the rest to 20,000 more. The rows of a content are spread over
//! all ids, which is the worst case. A change is measured from the commit in
//! Postgres to the offset commit which records that all rows are enriched.
//!
//! `BENCH_FANOUT` is the path of another binary to measure, for example an
//! earlier one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints its results and panics on errors"
)]

mod support;

use std::{
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use fanout::{
    config::Settings,
    connections::{Connections, postgres::Client},
    progress::Silent,
    runtime::barrier,
    sink_kind::SinkKind,
};
use support::{Stack, is_selected};

const TABLE: &str = "engagement_enriched_storage";

/// First generated id. Lower ids are events of the source.
const FIRST_ID: u64 = 1_000_000_000;

/// Rows per insert.
const ROWS_PER_INSERT: u64 = 500_000;

/// Timeout of each step; longer than any change takes.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// A content and its rows.
struct Content {
    description: &'static str,
    id: &'static str,
    /// Condition on a row's number `n`.
    rows: &'static str,
}

const CONTENTS: [Content; 4] = [
    Content {
        description: "no rows",
        id: "dddddddd-0000-0000-0000-000000000004",
        rows: "0",
    },
    Content {
        description: "10 rows",
        id: "aaaaaaaa-0000-0000-0000-000000000001",
        rows: "n % intDiv(total, 10) = 1",
    },
    Content {
        description: "a two-hundredth",
        id: "bbbbbbbb-0000-0000-0000-000000000002",
        rows: "cityHash64(n) % 200 = 2",
    },
    Content {
        description: "a tenth",
        id: "cccccccc-0000-0000-0000-000000000003",
        rows: "cityHash64(n) % 10 = 3",
    },
];

fn main() {
    // `cargo test --benches` and similar commands only check that it builds.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    if !is_bench || is_selected("reenrich") != Some(true) {
        return;
    }
    let program = std::env::var("BENCH_FANOUT");
    let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_fanout").to_owned());
    let stack = Stack::up(program);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(&stack));
}

/// A running pipeline, killed when dropped.
struct Pipeline(Child);

impl Pipeline {
    fn start(stack: &Stack) -> Self {
        let arguments = ["run", "--sinks", "clickhouse", "--http-addr", "127.0.0.1:0"];
        let mut command = stack.command(&arguments);
        let log = std::fs::File::create("/dev/null").expect("open /dev/null");
        command.stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("start fanout"))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(stack: &Stack) {
    let settings = stack.settings();
    let total: u64 = std::env::var("BENCH_ROWS").map_or(20_000_000, |rows| {
        rows.parse().expect("BENCH_ROWS is a number")
    });
    stack.fanout(&["seed", "--events", "30"]);
    let connections = Connections::of(&settings);
    let source = connections.postgres.connect().await.expect("postgres");
    for content in &CONTENTS {
        let id = content.id;
        let insert =
            format!("INSERT INTO content VALUES ('{id}', '{id}', '', 'video', 100, now())");
        source.batch_execute(&insert).await.expect("a content");
    }
    let pipeline = Pipeline::start(stack);
    wait_until_caught_up(&settings).await;
    drop(pipeline);
    fill(&settings, total).await;
    let _pipeline = Pipeline::start(stack);
    wait_until_caught_up(&settings).await;
    for content in &CONTENTS {
        for length in [200, 300] {
            change(&settings, &source, content, length).await;
        }
    }
}

async fn wait_until_caught_up(settings: &Settings) {
    let connections = Connections::of(settings);
    barrier::wait(&connections, &[SinkKind::ClickHouse], TIMEOUT, &Silent)
        .await
        .expect("catch up");
}

async fn fill(settings: &Settings, total: u64) {
    let clickhouse = Connections::of(settings).clickhouse;
    let server = clickhouse.server().expect("a url");
    let database = &settings.clickhouse.database;
    let started = Instant::now();
    let mut first = 0;
    while first < total {
        let rows = ROWS_PER_INSERT.min(total - first);
        let statement = insert_statement(database, total, first, rows);
        server
            .execute(&statement, TIMEOUT)
            .await
            .expect("insert rows");
        first += rows;
    }
    println!(
        "{total} rows stored in {:.0} s",
        started.elapsed().as_secs_f64()
    );
}

/// Returns the insert of rows as a pipeline would write them: with generation
/// 1, and enriched up to the first offset of the content topic.
fn insert_statement(database: &str, total: u64, first: u64, rows: u64) -> String {
    let content_offset = "bitShiftLeft(toUInt64(1), 48)";
    let version = format!(
        "bitOr(bitShiftLeft(toUInt128(bitOr({content_offset}, intDiv(n, 3))), 64), \
         toUInt128({content_offset}))"
    );
    let contents: Vec<String> = CONTENTS
        .iter()
        .map(|content| format!("{}, toUUID('{}')", content.rows, content.id))
        .collect();
    format!(
        "INSERT INTO {database}.{TABLE} WITH {total} AS total, number AS n \
         SELECT n + {FIRST_ID}, \
         multiIf({}, reinterpret(MD5(toString(cityHash64(n, 7) % 20000)), 'UUID')), \
         reinterpret(MD5(toString(n % 500000)), 'UUID'), \
         ['play', 'pause', 'finish', 'click'][n % 4 + 1], \
         toDateTime64('2025-01-01', 6, 'UTC') + n, toInt32(cityHash64(n, 1) % 600000), \
         toDecimal64(toInt32(cityHash64(n, 1) % 600000) / 1000, 3), toDecimal64(0.5, 2), \
         ['ios', 'android', 'web', 'tv'][cityHash64(n, 2) % 4 + 1], \
         concat('{{\"session\":\"', hex(cityHash64(n, 3)), '\",\"position\":', \
         toString(n % 3600), '}}'), \
         'video', 100, now64(3, 'UTC'), {version}, 0, toInt32(n % 3), intDiv(n, 3), \
         {content_offset}, now64(3, 'UTC') FROM numbers({first}, {rows})",
        contents.join(", ")
    )
}

/// Changes a content and waits until all of its rows are enriched, while events
/// arrive.
async fn change(settings: &Settings, source: &Client, content: &Content, length: u32) {
    let id = content.id;
    let update = format!("UPDATE content SET length_seconds = {length} WHERE id = '{id}'");
    source
        .batch_execute(&update)
        .await
        .expect("update the content");
    let started = Instant::now();
    let is_done = AtomicBool::new(false);
    let (elapsed, latencies) = tokio::join!(
        async {
            wait_until_caught_up(settings).await;
            is_done.store(true, Ordering::Release);
            started.elapsed()
        },
        event_latencies(settings, source, &is_done)
    );
    let slowest = latencies.iter().max().copied().unwrap_or_default();
    let rows = enriched_rows(settings, content, length).await;
    println!(
        "{:<16} {rows:>8} rows  {:>7.2} s; {} new events in the meantime, slowest {:.2} s",
        content.description,
        elapsed.as_secs_f64(),
        latencies.len(),
        slowest.as_secs_f64()
    );
}

/// Writes events one after the other until `is_done`. Returns the time that
/// each took to reach the table.
async fn event_latencies(
    settings: &Settings,
    source: &Client,
    is_done: &AtomicBool,
) -> Vec<Duration> {
    let insert = "INSERT INTO engagement_events (event_type, event_ts) VALUES ('play', now()) \
                  RETURNING id";
    let mut latencies = Vec::new();
    while !is_done.load(Ordering::Acquire) {
        let row = source.query_one(insert, &[]).await.expect("an event");
        let started = Instant::now();
        let id: i64 = row.get(0);
        while count(settings, &format!("event_id = {id}")).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        latencies.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    latencies
}

async fn enriched_rows(settings: &Settings, content: &Content, length: u32) -> u64 {
    let (id, offset) = (content.id, 1_u64 << 48);
    // Counts the rewritten rows without FINAL, which would be slow here.
    count(
        settings,
        &format!(
            "content_id = '{id}' AND length_seconds = {length} AND _content_offset > {offset}"
        ),
    )
    .await
}

async fn count(settings: &Settings, condition: &str) -> u64 {
    let query = Connections::of(settings).clickhouse.query();
    let query = query.expect("a url");
    let sql = format!("SELECT uniqExact(event_id) AS n FROM {TABLE} WHERE {condition}");
    let lines = query.json_lines(&sql).await.expect("a count");
    let row: serde_json::Value = serde_json::from_str(&lines[0]).expect("a document");
    let number = &row["n"];
    // By default, ClickHouse writes 64-bit integers as strings in JSON.
    let text = number.as_str().and_then(|text| text.parse().ok());
    text.or(number.as_u64()).expect("a number")
}
