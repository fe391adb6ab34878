//! From a commit in the source to every store, through whatever happens on the
//! way. The oracle is `verify`, which has tests of its own.

use std::iter;

use fanout::{
    clients::{Connection, clickhouse::percent, postgres::Postgres},
    enrichment::engagement_pct,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, content, eventually, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "the_later_of_two_updates_in_one_transaction_holds",
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
    ("a_title_changed_holds_nobody_up", changed_title),
    ("a_flushed_board_heals_by_itself", flushed_board),
    (
        "everything_converges_through_a_kill_and_a_flush",
        kill_and_flush,
    ),
    ("a_percentage_is_what_postgres_makes_of_it", percentages),
];

fn two_updates(stack: &Stack) {
    let event = Event::insert(stack);
    event.change("duration_ms = 1000", "duration_ms = 2000");
    event.becomes("duration_ms", &Json::from(2000));
}

fn inserted_again(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
    let (id, content) = (event.id, event.content);
    stack.stores.postgres(&format!(
        "DELETE FROM engagement_events WHERE id = {id};
         INSERT INTO engagement_events (id, content_id, event_type, event_ts, device)
         VALUES ({id}, '{content}', 'finish', now(), 'tv')"
    ));
    event.becomes("device", &Json::from("tv"));
    event.scores(content, Some(1));
    stack
        .stores
        .postgres(&format!("DELETE FROM engagement_events WHERE id = {id}"));
    eventually("the event is gone", || same(&None, stack.stores.row(id)));
    event.scores(content, None);
}

fn moved_event(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let other = content(stack, 200);
    event.change(&format!("content_id = '{other}'"), "device = 'moved'");
    event.scores(other, Some(1));
    event.scores(event.content, None);
    event.becomes("engagement_pct", &Json::from("0.33"));
}

fn changed_content(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("engagement_pct", &Json::from("0.65"));
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 8, content_type = NULL WHERE id = '{}'",
        event.content
    ));
    // 65 s of 8 s are 8.125, a half.
    event.becomes("engagement_pct", &Json::from("8.13"));
    event.becomes("content_type", &Json::Null);
}

/// No row has to know of it, but the end of the content topic moves.
fn changed_title(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    stack.verifies();
    stack.stores.postgres(&format!(
        "UPDATE content SET title = 'another' WHERE id = '{}'",
        event.content
    ));
    stack.verifies();
}

fn flushed_board(stack: &Stack) {
    stack.fanout.run(&["seed", "--events", "50"]).ends_with(0);
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let () = stack.stores.redis(&["FLUSHALL"]);
    event.scores(event.content, Some(1));
    stack.verifies();
}

/// Changes of every kind under a live load, the pipeline killed in the middle
/// of it and Redis emptied meanwhile.
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
        .expect("the binary starts");
    let mut load = Load(load);
    let counted = || {
        stack
            .stores
            .clickhouse("SELECT count() FROM analytics.engagement_enriched")
    };
    let before = counted();
    eventually("the load arrives", || match counted() {
        now if now == before => Err(format!("still {now}")),
        _ => Ok(()),
    });

    stack.kill("pipeline");
    change_everything(stack, 1);
    let () = stack.stores.redis(&["FLUSHALL"]);
    stack.mend();
    change_everything(stack, 2);
    stack.kill("pipeline");
    stack.mend();
    load.ends();
    stack.verifies();
}

/// Updates, deletes, inserts again, moves and changes of content, all over the
/// table.
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
        "CREATE TEMPORARY TABLE again AS SELECT * FROM engagement_events WHERE id % 17 = {round};
         DELETE FROM engagement_events WHERE id IN (SELECT id FROM again);
         INSERT INTO engagement_events SELECT * FROM again WHERE id % 2 = 0"
    ));
}

fn percentages(stack: &Stack) {
    const PAIRS: usize = 20_000;
    let mut random = ChaCha8Rng::seed_from_u64(42);
    let edges = [i32::MIN, -125, -1, 0, 1, 125, i32::MAX];
    let edges = edges
        .iter()
        .flat_map(|duration| edges.map(|length| (*duration, length)));
    // Short lengths make the halves that rounding is about; every fourth pair
    // is any two numbers.
    let any = iter::repeat_with(|| {
        if random.random_ratio(1, 4) {
            (random.random(), random.random())
        } else {
            (
                random.random_range(-100_000..100_000),
                random.random_range(-2..64),
            )
        }
    });
    let (durations, lengths): (Vec<i32>, Vec<i32>) = edges.chain(any).take(PAIRS).unzip();
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
    let stored = percentages_of_clickhouse(stack, &durations, &lengths);
    assert_eq!(stored.len(), PAIRS);
    let pairs = durations.into_iter().zip(lengths);
    for ((pair, expected), stored) in pairs.zip(expected).zip(stored) {
        let (duration, length) = pair;
        let found = engagement_pct(Some(duration), Some(length));
        assert_eq!(found, expected, "{duration} ms of {length} s");
        assert_eq!(stored, expected, "{duration} ms of {length} s, re-enriched");
    }
}

/// The same by the expression that re-enriches stored rows, in hundredths.
fn percentages_of_clickhouse(
    stack: &Stack,
    durations: &[i32],
    lengths: &[i32],
) -> Vec<Option<i64>> {
    // What one statement holds by default.
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

/// A `fanout seed` under way; killed when dropped.
struct Load(std::process::Child);

impl Load {
    fn ends(&mut self) {
        let status = eventually("the load ends", || {
            let status = self.0.try_wait().expect("a child");
            status.ok_or_else(|| "it goes on".to_owned())
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has gone already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
