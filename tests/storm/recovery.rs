//! How long it takes, from the moment mending begins, until changes arrive
//! again. Whatever else goes wrong meanwhile counts in, and is told apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanout::clients::{Connection, postgres::Postgres};
use tokio::time::timeout;

use crate::{
    reader,
    stage::{SpellId, Stage, until},
    support::wait_for,
};

/// What has not recovered by then never will.
const DEADLINE: Duration = Duration::from_secs(180);

/// A Postgres that does not answer for so long is asked anew.
const ANSWER: Duration = Duration::from_secs(5);

/// Enough for every partition to get some.
const CANARIES: i64 = 16;

/// Far from the load's ids.
const FIRST_CANARY: i64 = 5_000_000_000;

/// A board is looked at by its own clock.
const FRESH: Duration = Duration::from_millis(1);

/// What recovered, and how long it may take by the aims.
pub const AIMS: [(&str, u64); 6] = [
    ("worker", 10),
    ("redis", 3),
    ("clickhouse", 15),
    ("kafka", 30),
    ("postgres", 30),
    ("connect", 45),
];

/// One recovery.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: Duration,
    /// Nothing else was wrong meanwhile.
    alone: bool,
}

/// Of several recoveries.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub times: usize,
    pub median: Duration,
    pub worst: Duration,
}

impl Summary {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort();
        Some(Self {
            times: times.len(),
            median: *times.get(times.len() / 2)?,
            worst: *times.last()?,
        })
    }
}

/// How long each recovery took, by component.
#[derive(Default)]
pub struct Recoveries {
    took: Mutex<BTreeMap<&'static str, Vec<Took>>>,
    /// Batches of canaries so far.
    batches: Mutex<i64>,
}

impl Recoveries {
    /// Waits until `component`, broken until `since`, serves again; then the
    /// fault's spell is over.
    pub fn measure(&self, stage: &Stage, component: &'static str, since: Instant, spell: SpellId) {
        let left = || DEADLINE.saturating_sub(since.elapsed());
        let outcome = match component {
            "redis" => until(left(), || board_is_fresh(stage)),
            _ => self
                .canaries(stage, left())
                .and_then(|ids| until(left(), || arrived(stage, component, &ids)))
                .and_then(|()| match component {
                    "worker" => until(left(), || board_is_fresh(stage)),
                    _ => Ok(()),
                }),
        };
        let took = Took {
            time: since.elapsed(),
            alone: stage.was_alone(spell, since),
        };
        stage.spell_ends(spell, Instant::now());
        match outcome {
            Ok(()) => {
                let seconds = took.time.as_secs_f64();
                let besides = if took.alone { "" } else { ", with more amiss" };
                stage.say(&format!(
                    "{component} is back after {seconds:.1} s{besides}"
                ));
                let mut all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(component).or_default().push(took);
            }
            Err(instead) => stage.found(format!(
                "{component} has not recovered within {} s: {instead}",
                DEADLINE.as_secs()
            )),
        }
    }

    /// Writes events into the source as soon as it takes them.
    fn canaries(&self, stage: &Stage, within: Duration) -> Result<BTreeSet<i64>, String> {
        let batch = {
            let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
            *batches += 1;
            *batches
        };
        let first = FIRST_CANARY + batch * CANARIES;
        let last = first + CANARIES - 1;
        let sql = format!(
            "INSERT INTO engagement_events (id, event_type, event_ts, device)
             SELECT id, 'play', now(), 'canary' FROM generate_series({first}, {last}) AS id
             ON CONFLICT DO NOTHING"
        );
        let url = stage.stack.stores.url("FANOUT_POSTGRES_URL");
        until(within, || {
            let writing = async {
                Postgres::new(Connection::new(url.into()))
                    .connect()
                    .await?
                    .batch_execute(&sql)
                    .await
            };
            match wait_for(async { timeout(ANSWER, writing).await }) {
                Ok(Ok(())) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok((first..=last).collect())
    }

    /// Of each component: all recoveries, and those with nothing else amiss.
    pub fn summary(&self) -> BTreeMap<&'static str, (Summary, Option<Summary>)> {
        let all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |took: &Vec<Took>| {
            let alone = took.iter().filter(|one| one.alone);
            let alone = Summary::of(alone.map(|one| one.time).collect());
            Some((
                Summary::of(took.iter().map(|one| one.time).collect())?,
                alone,
            ))
        };
        all.iter()
            .filter_map(|(name, took)| Some((*name, one(took)?)))
            .collect()
    }
}

/// Whether they are where they go by way of the component: in ClickHouse or,
/// where something else is in the way there, with the external system.
fn arrived(stage: &Stage, component: &str, ids: &BTreeSet<i64>) -> Result<(), String> {
    let (first, last) = (ids.first(), ids.last());
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(());
    };
    let rows = stage
        .clickhouse(&format!(
            "SELECT count() FROM analytics.engagement_enriched
             WHERE event_id BETWEEN {first} AND {last}"
        ))
        .map(|rows| rows.trim().to_owned());
    if rows.as_deref() == Ok(ids.len().to_string().as_str()) {
        return Ok(());
    }
    if component != "clickhouse" && accepted(stage, ids)? == ids.len() {
        return Ok(());
    }
    Err(format!("of {} events there are {rows:?}", ids.len()))
}

fn accepted(stage: &Stage, ids: &BTreeSet<i64>) -> Result<usize, String> {
    let page = stage.accepted("limit=1000")?;
    let events = page["events"].as_array().ok_or("no events")?;
    let found = events
        .iter()
        .filter_map(|call| call["body"]["id"].as_i64())
        .filter(|id| ids.contains(id));
    Ok(found.collect::<BTreeSet<_>>().len())
}

/// Whether a complete board was published after now.
fn board_is_fresh(stage: &Stage) -> Result<(), String> {
    let asked_us = jiff::Timestamp::now().as_microsecond();
    let within = FRESH.as_micros();
    let state = until(Duration::from_secs(2), || {
        let state = reader::now(stage).ok_or("there is no board")?;
        let ahead = i128::from(state.as_of_us - asked_us);
        if state.complete && ahead >= i128::try_from(within).unwrap_or(0) {
            return Ok(state);
        }
        Err(format!("as of {} s ago", -ahead / 1_000_000))
    });
    state.map(|_| ())
}
