//! Reads the board as anybody may, many times a second, and keeps every state
//! that was ever published.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{model::Scores, stage::Stage};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);
/// A Redis that stands still is not waited for.
const ANSWER: Duration = Duration::from_secs(1);

/// Time stands still in a script, so keys that expire together are gone
/// together.
const READ: &str = "return {redis.call('HGETALL', KEYS[2]), \
                    redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}";

/// One published board.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub as_of_us: i64,
    pub seq: u64,
    pub complete: bool,
    pub behind_ms: i64,
    pub window_seconds: u64,
    /// Of each partition, everything before this offset is in.
    pub positions: Vec<i64>,
    pub scores: Scores,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Reading {
    pub states: Vec<State>,
    pub looks: u64,
    /// What was no state: with its reason.
    pub unreadable: Vec<String>,
}

/// Reads until the storm is over.
pub fn read(stage: &Stage) -> Reading {
    let mut reading = Reading::default();
    let mut last = None;
    while !stage.is_over() {
        let Ok(mut connection) = connect(stage.stack.stores.url("FANOUT_REDIS_URL")) else {
            thread::sleep(PAUSE);
            continue;
        };
        while !stage.is_over() {
            let begun = Instant::now();
            let Ok(found) = look(&mut connection) else {
                break;
            };
            reading.looks += 1;
            if last.as_ref() != Some(&found) {
                match state(&found) {
                    Ok(Some(state)) => reading.states.push(state),
                    Ok(None) => {}
                    Err(why) => reading.unreadable.push(format!("{why}: {found:?}")),
                }
                last = Some(found);
            }
            thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
        }
    }
    reading
}

/// The state now, where there is one.
pub fn now(stage: &Stage) -> Option<State> {
    let mut connection = connect(stage.stack.stores.url("FANOUT_REDIS_URL")).ok()?;
    state(&look(&mut connection).ok()?).ok()?
}

/// A connection that gives up soon.
pub fn connect(url: &str) -> redis::RedisResult<redis::Connection> {
    let connection = redis::Client::open(url)?.get_connection_with_timeout(ANSWER)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}

type Found = (BTreeMap<String, String>, Vec<(String, f64)>);

fn look(connection: &mut redis::Connection) -> redis::RedisResult<Found> {
    let mut call = redis::cmd("EVAL");
    call.arg(READ).arg(2).arg("top10m").arg("{top10m}:meta");
    call.query(connection)
}

/// None where there is no board.
fn state((meta, members): &Found) -> Result<Option<State>, String> {
    if meta.is_empty() {
        let orphaned = !members.is_empty();
        return if orphaned {
            Err("a board without its meta".to_owned())
        } else {
            Ok(None)
        };
    }
    let text = |name: &str| meta.get(name).ok_or(format!("no {name}"));
    let number = |name: &str| {
        let parsed = text(name)?.parse::<i64>();
        parsed.map_err(|error| format!("{name}: {error}"))
    };
    let positions = text("positions")?.split(',').map(str::parse);
    let mut scores = Scores::new();
    for (member, score) in members {
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction")]
        let whole = *score as i64;
        scores.insert(member.clone(), whole);
    }
    Ok(Some(State {
        as_of_us: number("as_of")?,
        seq: number("seq")?.unsigned_abs(),
        complete: number("complete")? == 1,
        behind_ms: number("behind_ms")?,
        window_seconds: number("window_seconds")?.unsigned_abs(),
        positions: positions
            .collect::<Result<_, _>>()
            .map_err(|error| format!("positions: {error}"))?,
        scores,
    }))
}
