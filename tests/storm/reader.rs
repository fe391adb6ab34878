//! Polls the board many times a second, as any client could, and records every
//! published state.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{model::Scores, stage::Stage};

/// Interval between two reads.
const PAUSE: Duration = Duration::from_millis(15);
/// Timeout of one request, because Redis may be paused.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Time does not advance within a script, so keys with the same expiry time
/// expire together.
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
    /// For each partition: all records before this offset are included.
    pub positions: Vec<i64>,
    pub scores: Scores,
}

/// The recorded states.
#[derive(Debug, Default)]
pub struct Reading {
    pub states: Vec<State>,
    pub reads: u64,
    /// Responses that are not a valid state, with the reason.
    pub unreadable: Vec<String>,
}

/// Reads until the storm ends.
pub fn read(stage: &Stage) -> Reading {
    let mut reading = Reading::default();
    let mut last = None;
    while !stage.is_over() {
        let Ok(mut connection) = connect(stage.stack.stores.url("FANOUT_REDIS_URL")) else {
            thread::sleep(PAUSE);
            continue;
        };
        while !stage.is_over() {
            let start = Instant::now();
            let Ok(found) = read_once(&mut connection) else {
                break;
            };
            reading.reads += 1;
            if last.as_ref() != Some(&found) {
                match state(&found) {
                    Ok(Some(state)) => reading.states.push(state),
                    Ok(None) => {}
                    Err(reason) => reading.unreadable.push(format!("{reason}: {found:?}")),
                }
                last = Some(found);
            }
            thread::sleep(PAUSE.saturating_sub(start.elapsed()));
        }
    }
    reading
}

/// Returns the current state, or `None` if there is none.
pub fn current(stage: &Stage) -> Option<State> {
    let mut connection = connect(stage.stack.stores.url("FANOUT_REDIS_URL")).ok()?;
    state(&read_once(&mut connection).ok()?).ok()?
}

/// Connects to Redis with a short timeout.
pub fn connect(url: &str) -> redis::RedisResult<redis::Connection> {
    let connection = redis::Client::open(url)?.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}

type Found = (BTreeMap<String, String>, Vec<(String, f64)>);

fn read_once(connection: &mut redis::Connection) -> redis::RedisResult<Found> {
    let mut call = redis::cmd("EVAL");
    call.arg(READ).arg(2).arg("top10m").arg("{top10m}:meta");
    call.query(connection)
}

/// Parses a state. Returns `None` if there is no board.
fn state((meta, members): &Found) -> Result<Option<State>, String> {
    if meta.is_empty() {
        let is_orphaned = !members.is_empty();
        return if is_orphaned {
            Err("a board without its metadata".to_owned())
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
        #[expect(clippy::cast_possible_truncation, reason = "a score has no fraction")]
        let integer = *score as i64;
        scores.insert(member.clone(), integer);
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
