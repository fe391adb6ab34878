//! From a commit in the source to every store, despite faults on the way. The
//! oracle is `verify`, which has its own tests.

use std::iter;

use fanout::{
    connections::{Connection, postgres::Postgres},
    engagement::enrichment::engagement_pct,
    sinks::clickhouse::percent,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, check_equal, content, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "the_later_of_two_updates_in_one_transaction_wins",
        two_updates,
    ),
    (
        "an_event_deleted_and_inserted_again_is_live",
        inserted_again,
    ),
    ("an_update_moves_an_event_to_other_content", moved_event),
    (
        "content_changed_after_its_events_reaches_them",
        changed_content,
    ),
    ("a_changed_title_delays_no_sink", changed_title),
    ("a_flushed_board_is_restored_automatically", flushed_board),
    (
        "everything_converges_through_a_kill_and_a_flush",
        kill_and_flush,
    ),
    ("a_percentage_is_rounded_as_in_postgres", percentages),
];

fn two_updates(stack: &Stack) {
    let event = Event::insert(stack);
    event.change("duration_ms = 1000", "duration_ms = 2000");
    event.wait_for_column("duration_ms", &Json::from(2000));
}

fn inserted_again(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let (id, content) = (event.id, event.content);
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {id};
         INSERT INTO engagement_events (id, content_id, event_type, event_ts, device)
         VALUES ({id}, '{content}', 'finish', now(), 'tv')"
    ));
    event.wait_for_column("device", &Json::from("tv"));
    event.wait_for_score(content, Some(1));
    stack
        .stores
        .postgres(&format!("DELETE FROM engagement_events WHERE id = {id}"));
    eventually("the event is deleted", || {
        check_equal(&None, stack.stores.row(id))
    });
    event.wait_for_score(content, None);
}

fn moved_event(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let other = content(stack, 200);
    event.change(&format!("content_id = '{other}'"), "device = 'moved'");
    event.wait_for_score(other, Some(1));
    event.wait_for_score(event.content, None);
    event.wait_for_column("engagement_pct", &Json::from("0.33"));
}

fn changed_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 8, content_type = NULL WHERE id = '{}'",
        event.content
    ));
    // 65 s of 8 s are 8.125, which is rounded up.
    event.wait_for_column("engagement_pct", &Json::from("8.13"));
    event.wait_for_column("content_type", &Json::Null);
}

/// A title changes no row, but the end offset of the content topic advances.
fn changed_title(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    stack.assert_verified();
    stack.stores.postgres(&format!(
        "UPDATE content SET title = 'another' WHERE id = '{}'",
        event.content
    ));
    stack.assert_verified();
}

fn flushed_board(stack: &Stack) {
    stack.fanout.run(&["seed", "--events", "50"]).ends_with(0);
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let () = stack.stores.redis(&["FLUSHALL"]);
    event.wait_for_score(event.content, Some(1));
    stack.assert_verified();
}

/// Makes changes of every kind under load, while the pipeline is killed and
/// Redis is emptied.
fn kill_and_flush(stack: &Stack) {
    let seed = ["seed", "--content", "20", "--events", "500"];
    stack.fanout.run(&seed).ends_with(0);
    let load = [
        "seed",
        "--content",
        "20",
        "--rate",
        "300",
        "--duration",
        "15s",
        "--rng-seed",
        "7",
    ];
    let load = stack
        .fanout
        .command(&load)
        .spawn()
        .expect("start the binary");
    let mut load = Load(load);
    let row_count = || {
        stack
            .stores
            .clickhouse("SELECT count() FROM analytics.engagement_enriched")
    };
    let before = row_count();
    eventually("the load arrives", || match row_count() {
        count if count == before => Err(format!("still {count}")),
        _ => Ok(()),
    });

    stack.kill("pipeline");
    change_everything(stack, 1);
    let () = stack.stores.redis(&["FLUSHALL"]);
    stack.repair();
    change_everything(stack, 2);
    stack.kill("pipeline");
    stack.repair();
    load.wait_for_success();
    stack.assert_verified();
}

/// Updates, deletes, reinserts and moves events, and changes content, across
/// the table.
fn change_everything(stack: &Stack, round: u32) {
    stack.stores.postgres(&format!(
        "UPDATE engagement_events SET duration_ms = duration_ms + {round} WHERE id % 7 = {round};
         UPDATE engagement_events SET device = 'changed', event_type = 'finish' WHERE id % 7 = {round};
         DELETE FROM engagement_events WHERE id % 11 = {round}"
    ));
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = length_seconds + {round}, title = title || '!';
         UPDATE engagement_events SET content_id = (SELECT min(id::text)::uuid FROM content)
         WHERE id % 13 = {round}"
    ));
    stack.stores.postgres(&format!(
        "CREATE TEMPORARY TABLE reinserted AS SELECT * FROM engagement_events WHERE id % 17 = {round};
         DELETE FROM engagement_events WHERE id IN (SELECT id FROM reinserted);
         INSERT INTO engagement_events SELECT * FROM reinserted WHERE id % 2 = 0"
    ));
}

fn percentages(stack: &Stack) {
    const PAIRS: usize = 20_000;
    let mut random = ChaCha8Rng::seed_from_u64(42);
    let edges = [i32::MIN, -125, -1, 0, 1, 125, i32::MAX];
    let edges = edges
        .iter()
        .flat_map(|duration| edges.map(|length| (*duration, length)));
    // Short lengths produce the halves where rounding matters. Every fourth
    // pair is two arbitrary numbers.
    let random_pairs = iter::repeat_with(|| {
        if random.random_ratio(1, 4) {
            (random.random(), random.random())
        } else {
            (
                random.random_range(-100_000..100_000),
                random.random_range(-2..64),
            )
        }
    });
    let (durations, lengths): (Vec<i32>, Vec<i32>) = edges.chain(random_pairs).take(PAIRS).unzip();
    let expected: Vec<Option<i64>> = wait_for(async {
        let url = stack.stores.url("FANOUT_POSTGRES_URL");
        let client = Postgres::new(Connection::new(url.into()))
            .connect()
            .await
            .expect("postgres");
        let rows = client
            .query(
                "SELECT (100 * CASE WHEN l > 0 THEN round((d / 1000.0) / l, 2) END)::bigint
                 FROM unnest($1::int[], $2::int[]) WITH ORDINALITY AS pairs (d, l, place)
                 ORDER BY place",
                &[&durations, &lengths],
            )
            .await
            .expect("rows");
        rows.iter().map(|row| row.get(0)).collect()
    });
    assert_eq!(expected.len(), PAIRS);
    let stored = clickhouse_percentages(stack, &durations, &lengths);
    assert_eq!(stored.len(), PAIRS);
    let pairs = durations.into_iter().zip(lengths);
    for ((pair, expected), stored) in pairs.zip(expected).zip(stored) {
        let (duration, length) = pair;
        let found = engagement_pct(Some(duration), Some(length));
        assert_eq!(found, expected, "{duration} ms of {length} s");
        assert_eq!(stored, expected, "{duration} ms of {length} s, re-enriched");
    }
}

/// Computes the percentages, in hundredths, with the expression that
/// re-enriches stored rows.
fn clickhouse_percentages(stack: &Stack, durations: &[i32], lengths: &[i32]) -> Vec<Option<i64>> {
    // The largest list that a statement may contain by default.
    const CHUNK: usize = 5_000;
    let percent = percent("duration", "length");
    let mut found = Vec::new();
    for (durations, lengths) in durations.chunks(CHUNK).zip(lengths.chunks(CHUNK)) {
        let text = stack.stores.clickhouse(&format!(
            "SELECT toInt64(({percent}) * 100) FROM
                 (SELECT CAST(pair.1 AS Int32) AS duration, CAST(pair.2 AS Nullable(Int32)) AS length, place
                  FROM (SELECT arrayZip({durations:?}, {lengths:?}) AS pairs)
                  ARRAY JOIN pairs AS pair, arrayEnumerate(pairs) AS place)
             ORDER BY place FORMAT TSV"
        ));
        found.extend(text.lines().map(|line| match line {
            "\\N" => None,
            number => Some(number.parse().unwrap_or_else(|_| panic!("{number}"))),
        }));
    }
    found
}

/// A running `fanout seed`. Killed when dropped.
struct Load(std::process::Child);

impl Load {
    fn wait_for_success(&mut self) {
        let status = eventually("the load ends", || {
            let status = self.0.try_wait().expect("a child");
            status.ok_or_else(|| "still running".to_owned())
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a successful test the load has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
