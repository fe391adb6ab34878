//! Content that changes after its events, in tables that are too large for a
//! full scan: how the rows are found, and how they are rewritten in bounded
//! pieces.

use std::{collections::BTreeSet, time::Duration};

use fanout::{
    config::Settings,
    connections::Connections,
    sinks::clickhouse::{Enrichment, StaleRow, StaleRows, Store, owned},
};
use uuid::Uuid;

use crate::{
    Test,
    support::{Stack, Worker, check_equal, content, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "rows_are_found_by_content_only_while_their_enrichment_is_outdated",
        stale_rows,
    ),
    (
        "a_statement_that_times_out_is_also_cancelled_on_the_server",
        deadline,
    ),
    (
        "a_large_content_is_re_enriched_in_pieces_while_new_events_arrive",
        in_pieces,
    ),
];

const CONTENTS: [&str; 3] = [
    "aaaaaaaa-0000-0000-0000-000000000001",
    "bbbbbbbb-0000-0000-0000-000000000002",
    "cccccccc-0000-0000-0000-000000000003",
];

/// A separate database with fanout's tables. Dropped at the end.
struct Scratch<'a> {
    stack: &'a Stack,
    settings: Settings,
}

impl<'a> Scratch<'a> {
    fn new(stack: &'a Stack, database: &str) -> Self {
        let mut settings = Settings::default();
        settings.clickhouse.url = stack.stores.url("FANOUT_CLICKHOUSE_URL").into();
        database.clone_into(&mut settings.clickhouse.database);
        let scratch = Self { stack, settings };
        wait_for(owned::clickhouse(&Connections::of(&scratch.settings)))
            .expect("create the tables");
        scratch
    }

    /// Executes a statement. `{t}` stands for the storage table, `{db}` for the
    /// database.
    fn execute(&self, statement: &str) -> String {
        let database = &self.settings.clickhouse.database;
        let table = format!("{database}.engagement_enriched_storage");
        let statement = statement.replace("{db}", database).replace("{t}", &table);
        self.stack.stores.clickhouse(&statement).trim().to_owned()
    }

    /// Returns a client with this statement timeout.
    fn store(&self, timeout: Duration) -> Store {
        let clickhouse = Connections::of(&self.settings).clickhouse;
        clickhouse.store(false, timeout).expect("a url")
    }

    /// Inserts `count` events in three partitions. One event in a thousand has
    /// the second content, all others the first. All rows are enriched with
    /// content 1:5.
    fn fill(&self, count: u64) {
        self.execute(&format!(
            "INSERT INTO {{t}} (event_id, content_id, event_ts, duration_ms, content_type, \
             length_seconds, _version, _deleted, _partition, _offset, _content_offset) \
             SELECT number, if(number % 1000 = 7, '{}', '{}'), now64(6), 65000, 'video', 100, \
             {}, 0, number % 3, number, bitOr(bitShiftLeft(toUInt64(1), 48), toUInt64(5)) \
             FROM numbers({count})",
            CONTENTS[1],
            CONTENTS[0],
            version("number", 5),
        ));
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.execute("DROP DATABASE {db} SYNC");
    }
}

/// Returns the `_version` of an event at `offset` in generation 1, enriched
/// with the content at offset `content`.
fn version(offset: &str, content: u64) -> String {
    format!(
        "bitOr(bitShiftLeft(toUInt128(bitOr(bitShiftLeft(toUInt64(1), 48), toUInt64({offset}))), \
         64), toUInt128({}))",
        position(content)
    )
}

/// Returns the `_content_offset` in generation 1.
fn position(offset: u64) -> u64 {
    (1 << 48) | offset
}

fn id(text: &str) -> Uuid {
    text.parse().expect("a uuid")
}

/// Returns the stale rows of one content in two partitions.
fn stale(store: &Store, content: Uuid, offset: u64) -> Vec<StaleRow> {
    let contents = [(content, position(offset))];
    let query = StaleRows {
        partitions: &[0, 1],
        contents: &contents,
        after: None,
        until: None,
        limit: 1000,
    };
    wait_for(store.stale_rows(query)).expect("rows")
}

fn enrichment(content: Uuid, offset: u64) -> Enrichment {
    Enrichment {
        content_id: content,
        content_type: Some(r"it's \a'".to_owned()),
        length_seconds: Some(8),
        content_offset: position(offset),
    }
}

fn stale_rows(stack: &Stack) {
    let scratch = Scratch::new(stack, "stale_rows");
    let store = scratch.store(Duration::from_secs(60));
    scratch.fill(6_000);
    let rare = id(CONTENTS[1]);
    let ids = |rows: &[StaleRow]| rows.iter().map(|row| row.event_id).collect::<Vec<_>>();
    // Partition 2 belongs to another worker.
    let stale_rows = stale(&store, rare, 6);
    assert_eq!(ids(&stale_rows), [7, 2007, 3007, 5007]);
    let query = StaleRows {
        partitions: &[0, 1],
        contents: &[(rare, position(6))],
        after: None,
        until: None,
        limit: 1000,
    };
    let statement = query
        .statement()
        .replace("engagement_enriched_storage", "{t}");
    let explained = scratch.execute(&format!("EXPLAIN indexes = 1 {statement}"));
    assert!(explained.contains("content_id_idx"), "{explained}");
    assert_eq!(stale(&store, rare, 5), []);
    assert_eq!(stale(&store, id(CONTENTS[2]), 6), []);

    // One event is deleted and one has moved to another content, so neither
    // must be rewritten.
    for (event, offset) in [(7, 7001), (2007, 7002)] {
        let (content, deleted) = match event {
            7 => ("NULL".to_owned(), 1),
            _ => (format!("'{}'", CONTENTS[2]), 0),
        };
        scratch.execute(&format!(
            "INSERT INTO {{t}} (event_id, content_id, _version, _deleted, _partition) \
             SELECT {event}, {content}, {}, {deleted}, {}",
            version(&offset.to_string(), 0),
            event % 3
        ));
    }
    let enrichments = [enrichment(rare, 6)];
    wait_for(store.reenrich(&ids(&stale_rows), &enrichments)).expect("rewrite the rows");
    let rows = |condition: &str| {
        scratch.execute(&format!(
            "SELECT event_id, content_type, length_seconds, engagement_pct, _partition \
             FROM {{t}} FINAL WHERE _deleted = 0 AND {condition} ORDER BY event_id FORMAT TSVRaw"
        ))
    };
    assert_eq!(
        rows("length_seconds = 8"),
        "3007\tit's \\a'\t8\t8.13\t1\n5007\tit's \\a'\t8\t8.13\t0"
    );
    assert_eq!(rows("event_id = 7"), "");
    // Rewritten rows are not found again. The other two are found until their
    // parts are merged.
    let remaining = ids(&stale(&store, rare, 6));
    assert!(
        remaining.iter().all(|id| [7, 2007].contains(id)),
        "{remaining:?}"
    );
    scratch.execute("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(stale(&store, rare, 6), []);
    assert_eq!(ids(&stale(&store, rare, 7)), [3007, 5007]);
}

/// Replaces the storage with an endless view.
fn deadline(stack: &Stack) {
    let scratch = Scratch::new(stack, "never_ending");
    scratch.execute("DROP TABLE {t} SYNC");
    scratch.execute(
        "CREATE VIEW {t} AS SELECT toInt64(cityHash64(number)) AS event_id \
         FROM numbers(1000000000000)",
    );
    let store = scratch.store(Duration::from_secs(1));
    let error = wait_for(store.event_bounds()).expect_err("the statement times out");
    assert!(error.to_string().contains("TIMEOUT_EXCEEDED"), "{error}");
    eventually("the statement is cancelled on the server", || {
        let running = scratch.execute(
            "SELECT count() FROM system.processes \
             WHERE query LIKE '%never_ending%' AND query NOT LIKE '%system.processes%'",
        );
        check_equal(&"0".to_owned(), running)
    });
}

/// Rewrites one row per statement, so that the pass is slow enough to be killed
/// midway.
fn in_pieces(stack: &Stack) {
    const ROWS: usize = 1500;
    let slow = stack.fanout.with("FANOUT_CLICKHOUSE_REENRICH_ROWS", "1");
    stack.kill("pipeline");
    let worker = Worker::start(stack, &slow, &["--sinks", "clickhouse"]);
    let large = content(stack, 100);
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms)
         SELECT '{large}', 'play', now(), 1000 FROM generate_series(1, {ROWS})"
    ));
    // Returns the rows with this length and the time when each was written.
    let rows = |length: u32| {
        let text = stack.stores.clickhouse(&format!(
            "SELECT event_id, toUnixTimestamp64Milli(processed_at) \
             FROM analytics.engagement_enriched \
             WHERE content_id = '{large}' AND length_seconds = {length} FORMAT TSV"
        ));
        text.lines()
            .map(str::to_owned)
            .collect::<BTreeSet<String>>()
    };
    eventually("all rows arrive", || check_equal(&ROWS, rows(100).len()));

    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 50 WHERE id = '{large}'"
    ));
    eventually("the pass is reported", || {
        let sink = worker.sink("clickhouse");
        let detail = sink["detail"].as_str().unwrap_or_default();
        let is_reported =
            sink["state"] == "running" && detail.starts_with("re-enriching stored rows:");
        is_reported.then_some(()).ok_or_else(|| sink.to_string())
    });
    let event = stack.stores.postgres_text(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms)
         VALUES ('{large}', 'play', now(), 2000) RETURNING id::text"
    ));
    let event: i64 = event.parse().expect("an id");
    eventually("the new event arrives", || {
        stack.stores.row(event).ok_or_else(|| worker.log_tail())
    });
    let remaining = rows(100).len();
    assert!(remaining > 0, "the pass ended before the event arrived");
    let rewritten = rows(50);
    worker.kill();

    stack.repair();
    eventually("the remaining rows are rewritten", || {
        check_equal(&0, rows(100).len())
    });
    let all = rows(50);
    assert_eq!(all.len(), ROWS + 1);
    // The new event itself may not have been committed, so it may be written
    // again.
    let event_prefix = format!("{event}\t");
    let repeated: Vec<_> = rewritten
        .difference(&all)
        .filter(|row| !row.starts_with(&event_prefix))
        .collect();
    assert!(repeated.is_empty(), "rewritten twice: {repeated:?}");
    stack.assert_verified();
}
