//! Content that changes after its events, on tables that are too large to be
//! looked through: which rows are found, by what, and how they are written
//! again, a piece at a time.

use std::{collections::BTreeSet, time::Duration};

use fanout::{
    clients::{
        Connections,
        clickhouse::{Enrichment, StaleRow, StaleRows, Store},
    },
    config::Settings,
    operations::objects,
};
use uuid::Uuid;

use crate::{
    Test,
    support::{Stack, Worker, content, eventually, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "rows_are_found_by_their_content_and_only_while_they_know_too_little",
        stale_rows,
    ),
    (
        "a_statement_that_takes_too_long_is_given_up_by_the_server_too",
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

/// A database of its own with fanout's tables, dropped at the end.
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
        wait_for(objects::clickhouse(&Connections::of(&scratch.settings))).expect("the tables");
        scratch
    }

    /// A statement, `{t}` being the storage.
    fn ask(&self, statement: &str) -> String {
        let database = &self.settings.clickhouse.database;
        let table = format!("{database}.engagement_enriched_storage");
        let statement = statement.replace("{db}", database).replace("{t}", &table);
        self.stack.stores.clickhouse(&statement).trim().to_owned()
    }

    /// A client whose statements may take so long.
    fn store(&self, timeout: Duration) -> Store {
        let clickhouse = Connections::of(&self.settings).clickhouse;
        clickhouse.store(false, timeout).expect("a url")
    }

    /// Events of the first content up to `count`, in three partitions, one in a
    /// thousand of the second content; all know content 1:5.
    fn fill(&self, count: u64) {
        self.ask(&format!(
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
        self.ask("DROP DATABASE {db} SYNC");
    }
}

/// `_version` of a fact at `offset`, of generation 1, with the content at this
/// offset.
fn version(offset: &str, content: u64) -> String {
    format!(
        "bitOr(bitShiftLeft(toUInt128(bitOr(bitShiftLeft(toUInt64(1), 48), toUInt64({offset}))), \
         64), toUInt128({}))",
        position(content)
    )
}

/// `_content_offset` of generation 1.
fn position(offset: u64) -> u64 {
    (1 << 48) | offset
}

fn id(text: &str) -> Uuid {
    text.parse().expect("a uuid")
}

/// The stale rows of one content in two partitions.
fn found(store: &Store, content: Uuid, offset: u64) -> Vec<StaleRow> {
    let contents = [(content, position(offset))];
    let wanted = StaleRows {
        partitions: &[0, 1],
        contents: &contents,
        after: None,
        until: None,
        limit: 1000,
    };
    wait_for(store.stale_rows(wanted)).expect("rows")
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
    // Partition 2 is another worker's.
    let stale = found(&store, rare, 6);
    assert_eq!(ids(&stale), [7, 2007, 3007, 5007]);
    let wanted = StaleRows {
        partitions: &[0, 1],
        contents: &[(rare, position(6))],
        after: None,
        until: None,
        limit: 1000,
    };
    let statement = wanted
        .statement()
        .replace("engagement_enriched_storage", "{t}");
    let explained = scratch.ask(&format!("EXPLAIN indexes = 1 {statement}"));
    assert!(explained.contains("content_id_idx"), "{explained}");
    assert_eq!(found(&store, rare, 5), []);
    assert_eq!(found(&store, id(CONTENTS[2]), 6), []);

    // One is deleted and one has moved: what is left of them is no row.
    for (event, offset) in [(7, 7001), (2007, 7002)] {
        let (content, deleted) = match event {
            7 => ("NULL".to_owned(), 1),
            _ => (format!("'{}'", CONTENTS[2]), 0),
        };
        scratch.ask(&format!(
            "INSERT INTO {{t}} (event_id, content_id, _version, _deleted, _partition) \
             SELECT {event}, {content}, {}, {deleted}, {}",
            version(&offset.to_string(), 0),
            event % 3
        ));
    }
    let enrichments = [enrichment(rare, 6)];
    wait_for(store.reenrich(&ids(&stale), &enrichments)).expect("written");
    let rows = |condition: &str| {
        scratch.ask(&format!(
            "SELECT event_id, content_type, length_seconds, engagement_pct, _partition \
             FROM {{t}} FINAL WHERE _deleted = 0 AND {condition} ORDER BY event_id FORMAT TSVRaw"
        ))
    };
    assert_eq!(
        rows("length_seconds = 8"),
        "3007\tit's \\a'\t8\t8.13\t1\n5007\tit's \\a'\t8\t8.13\t0"
    );
    assert_eq!(rows("event_id = 7"), "");
    // Written again is not found again; the other two are, until merged.
    let left = ids(&found(&store, rare, 6));
    assert!(left.iter().all(|id| [7, 2007].contains(id)), "{left:?}");
    scratch.ask("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(found(&store, rare, 6), []);
    assert_eq!(ids(&found(&store, rare, 7)), [3007, 5007]);
}

/// In place of the storage is something that never ends.
fn deadline(stack: &Stack) {
    let scratch = Scratch::new(stack, "never_ending");
    scratch.ask("DROP TABLE {t} SYNC");
    scratch.ask(
        "CREATE VIEW {t} AS SELECT toInt64(cityHash64(number)) AS event_id \
         FROM numbers(1000000000000)",
    );
    let store = scratch.store(Duration::from_secs(1));
    let error = wait_for(store.event_bounds()).expect_err("it has no end");
    assert!(error.to_string().contains("TIMEOUT_EXCEEDED"), "{error}");
    eventually("it has ended in the server", || {
        let under_way = scratch.ask(
            "SELECT count() FROM system.processes \
             WHERE query LIKE '%never_ending%' AND query NOT LIKE '%system.processes%'",
        );
        same(&"0".to_owned(), under_way)
    });
}

/// One row a statement, so that it takes long; killed in the middle of it.
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
    // Each row of this length, with when it was written.
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
    eventually("all rows arrive", || same(&ROWS, rows(100).len()));

    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 50 WHERE id = '{large}'"
    ));
    eventually("the pass is told", || {
        let sink = worker.sink("clickhouse");
        let detail = sink["detail"].as_str().unwrap_or_default();
        let told = sink["state"] == "running" && detail.starts_with("re-enriching stored rows:");
        told.then_some(()).ok_or_else(|| sink.to_string())
    });
    let event = stack.stores.postgres_text(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms)
         VALUES ('{large}', 'play', now(), 2000) RETURNING id::text"
    ));
    let event: i64 = event.parse().expect("an id");
    eventually("the new event arrives", || {
        stack.stores.row(event).ok_or_else(|| worker.said())
    });
    let left = rows(100).len();
    assert!(left > 0, "the pass was over before the event came");
    let done = rows(50);
    worker.kill();

    stack.mend();
    eventually("the rest follows", || same(&0, rows(100).len()));
    let all = rows(50);
    assert_eq!(all.len(), ROWS + 1);
    // The new event itself may not have been committed.
    let own = format!("{event}\t");
    let again: Vec<_> = done
        .difference(&all)
        .filter(|row| !row.starts_with(&own))
        .collect();
    assert!(again.is_empty(), "written again: {again:?}");
    stack.verifies();
}
