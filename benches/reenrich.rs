//! `BENCH_ONLY=reenrich make bench`: how long a change of content takes to reach
//! the stored rows of a large table, and how long new events wait meanwhile.
//!
//! The table is filled in ClickHouse itself with `BENCH_ROWS` rows (default
//! 20,000,000): every tenth is of one content, every two-hundredth of another,
//! ten of a third, the rest of 20,000 more; all over the ids, which is the worst
//! case. The changes go the whole way, from a commit in Postgres to the commit
//! that says that all rows know.
//!
//! `BENCH_FANOUT` names another binary to measure, for instance an earlier one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark reports and gives up"
)]

mod support;

use std::{
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use fanout::{
    clients::{Connections, postgres::Client},
    config::Settings,
    operations::fence,
    progress::Silent,
    sink_kind::SinkKind,
};
use support::{Stack, chosen};

const TABLE: &str = "engagement_enriched_storage";

/// Ids below are the source's own events.
const FIRST_ID: u64 = 1_000_000_000;

/// Rows of one insert.
const PIECE: u64 = 500_000;

/// No change takes as long.
const LONGEST: Duration = Duration::from_secs(3600);

/// A content, and which rows are of it.
struct Content {
    what: &'static str,
    id: &'static str,
    /// Of a row's number `n`.
    rows: &'static str,
}

const CONTENTS: [Content; 4] = [
    Content {
        what: "no rows",
        id: "dddddddd-0000-0000-0000-000000000004",
        rows: "0",
    },
    Content {
        what: "10 rows",
        id: "aaaaaaaa-0000-0000-0000-000000000001",
        rows: "n % intDiv(total, 10) = 1",
    },
    Content {
        what: "a two-hundredth",
        id: "bbbbbbbb-0000-0000-0000-000000000002",
        rows: "cityHash64(n) % 200 = 2",
    },
    Content {
        what: "a tenth",
        id: "cccccccc-0000-0000-0000-000000000003",
        rows: "cityHash64(n) % 10 = 3",
    },
];

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    let benches = std::env::args().any(|argument| argument == "--bench");
    if !benches || chosen("reenrich") != Some(true) {
        return;
    }
    let program = std::env::var("BENCH_FANOUT");
    let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_fanout").to_owned());
    let stack = Stack::up(program);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(&stack));
}

/// The pipeline; killed when dropped.
struct Pipeline(Child);

impl Pipeline {
    fn start(stack: &Stack) -> Self {
        let arguments = ["run", "--sinks", "clickhouse", "--http-addr", "127.0.0.1:0"];
        let mut command = stack.command(&arguments);
        let log = std::fs::File::create("/dev/null").expect("a sink");
        command.stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("fanout starts"))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // It may have ended by itself.
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
    caught_up(&settings).await;
    drop(pipeline);
    fill(&settings, total).await;
    let _pipeline = Pipeline::start(stack);
    caught_up(&settings).await;
    for content in &CONTENTS {
        for length in [200, 300] {
            change(&settings, &source, content, length).await;
        }
    }
}

async fn caught_up(settings: &Settings) {
    let connections = Connections::of(settings);
    fence::wait(&connections, &[SinkKind::ClickHouse], LONGEST, &Silent)
        .await
        .expect("it catches up");
}

async fn fill(settings: &Settings, total: u64) {
    let clickhouse = Connections::of(settings).clickhouse;
    let server = clickhouse.server().expect("a url");
    let database = &settings.clickhouse.database;
    let started = Instant::now();
    let mut from = 0;
    while from < total {
        let rows = PIECE.min(total - from);
        let statement = rows_statement(database, total, from, rows);
        server.execute(&statement, LONGEST).await.expect("rows");
        from += rows;
    }
    println!(
        "{total} rows stored in {:.0} s",
        started.elapsed().as_secs_f64()
    );
}

/// Rows as a pipeline had written them: of generation 1, and knowing the first
/// offset of the content topic.
fn rows_statement(database: &str, total: u64, from: u64, rows: u64) -> String {
    let known = "bitShiftLeft(toUInt64(1), 48)";
    let version = format!(
        "bitOr(bitShiftLeft(toUInt128(bitOr({known}, intDiv(n, 3))), 64), toUInt128({known}))"
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
         'video', 100, now64(3, 'UTC'), {version}, 0, toInt32(n % 3), intDiv(n, 3), {known}, \
         now64(3, 'UTC') FROM numbers({from}, {rows})",
        contents.join(", ")
    )
}

/// Changes a content and waits until all of its rows know, while events arrive.
async fn change(settings: &Settings, source: &Client, content: &Content, length: u32) {
    let id = content.id;
    let update = format!("UPDATE content SET length_seconds = {length} WHERE id = '{id}'");
    source.batch_execute(&update).await.expect("changed");
    let started = Instant::now();
    let over = AtomicBool::new(false);
    let (elapsed, waits) = tokio::join!(
        async {
            caught_up(settings).await;
            over.store(true, Ordering::Release);
            started.elapsed()
        },
        waits(settings, source, &over)
    );
    let longest = waits.iter().max().copied().unwrap_or_default();
    let rows = rows_of(settings, content, length).await;
    println!(
        "{:<16} {rows:>8} rows  {:>7.2} s; {} new events meanwhile, the slowest after {:.2} s",
        content.what,
        elapsed.as_secs_f64(),
        waits.len(),
        longest.as_secs_f64()
    );
}

/// One event after the other: how long each takes into the table.
async fn waits(settings: &Settings, source: &Client, over: &AtomicBool) -> Vec<Duration> {
    let insert = "INSERT INTO engagement_events (event_type, event_ts) VALUES ('play', now()) \
                  RETURNING id";
    let mut waits = Vec::new();
    while !over.load(Ordering::Acquire) {
        let row = source.query_one(insert, &[]).await.expect("an event");
        let started = Instant::now();
        let id: i64 = row.get(0);
        while count(settings, &format!("event_id = {id}")).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        waits.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    waits
}

async fn rows_of(settings: &Settings, content: &Content, length: u32) -> u64 {
    let (id, offset) = (content.id, 1_u64 << 48);
    // Rows that were written again; without FINAL, which takes long here.
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
    // 64 bits are a text in ClickHouse's JSON by default.
    let text = number.as_str().and_then(|text| text.parse().ok());
    text.or(number.as_u64()).expect("a number")
}
