//! Measures the time from the start of a repair until changes arrive again.
//! Recoveries during another disturbance are counted, but reported separately.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanout::connections::{Connection, postgres::Postgres};
use tokio::time::timeout;

use crate::{
    reader,
    stage::{DisturbanceId, Stage, wait_until},
    support::wait_for,
};

/// A component that has not recovered after this time is reported as a finding.
const DEADLINE: Duration = Duration::from_secs(180);

/// Timeout of a write to Postgres, after which the write is retried.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Number of events per measurement, enough for every partition to get some.
const CANARIES: i64 = 16;

/// The first canary's id, far from the ids of the load.
const FIRST_CANARY: i64 = 5_000_000_000;

/// A board is fresh if its `as_of` is at least this much later than the
/// request.
const FRESH: Duration = Duration::from_millis(1);

/// The measured components, with their target recovery times in seconds.
pub const TARGETS: [(&str, u64); 6] = [
    ("worker", 10),
    ("redis", 3),
    ("clickhouse", 15),
    ("kafka", 30),
    ("postgres", 30),
    ("connect", 45),
];

/// One measured recovery.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    time: Duration,
    /// Whether there was no other disturbance.
    is_undisturbed: bool,
}

/// Statistics of several recoveries.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub count: usize,
    pub median: Duration,
    pub worst: Duration,
}

impl Summary {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort();
        Some(Self {
            count: times.len(),
            median: *times.get(times.len() / 2)?,
            worst: *times.last()?,
        })
    }
}

/// The measured recoveries by component.
#[derive(Default)]
pub struct Recoveries {
    recoveries: Mutex<BTreeMap<&'static str, Vec<Recovery>>>,
    /// Number of canary batches so far.
    batches: Mutex<i64>,
}

impl Recoveries {
    /// Waits until `component`, whose repair began at `since`, works again.
    /// Then ends the disturbance.
    pub fn measure(
        &self,
        stage: &Stage,
        component: &'static str,
        since: Instant,
        disturbance: DisturbanceId,
    ) {
        let remaining = || DEADLINE.saturating_sub(since.elapsed());
        let outcome = match component {
            "redis" => wait_until(remaining(), || board_is_fresh(stage)),
            _ => self
                .write_canaries(stage, remaining())
                .and_then(|ids| wait_until(remaining(), || arrived(stage, component, &ids)))
                .and_then(|()| match component {
                    "worker" => wait_until(remaining(), || board_is_fresh(stage)),
                    _ => Ok(()),
                }),
        };
        let recovery = Recovery {
            time: since.elapsed(),
            is_undisturbed: stage.was_alone(disturbance, since),
        };
        stage.end_disturbance(disturbance, Instant::now());
        match outcome {
            Ok(()) => {
                let seconds = recovery.time.as_secs_f64();
                let note = if recovery.is_undisturbed {
                    ""
                } else {
                    ", during another disturbance"
                };
                stage.log(&format!("{component} recovered after {seconds:.1} s{note}"));
                let mut all = self
                    .recoveries
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                all.entry(component).or_default().push(recovery);
            }
            Err(error) => stage.report(format!(
                "{component} has not recovered within {} s: {error}",
                DEADLINE.as_secs()
            )),
        }
    }

    /// Writes canary events into the source as soon as Postgres accepts them.
    /// Returns their ids.
    fn write_canaries(&self, stage: &Stage, limit: Duration) -> Result<BTreeSet<i64>, String> {
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
        wait_until(limit, || {
            let writing = async {
                Postgres::new(Connection::new(url.into()))
                    .connect()
                    .await?
                    .batch_execute(&sql)
                    .await
            };
            match wait_for(async { timeout(TIMEOUT, writing).await }) {
                Ok(Ok(())) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok((first..=last).collect())
    }

    /// Returns statistics by component: of all recoveries, and of those without
    /// another disturbance.
    pub fn summary(&self) -> BTreeMap<&'static str, (Summary, Option<Summary>)> {
        let all = self
            .recoveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let summarize = |recoveries: &Vec<Recovery>| {
            let undisturbed = recoveries.iter().filter(|recovery| recovery.is_undisturbed);
            let undisturbed = Summary::of(undisturbed.map(|recovery| recovery.time).collect());
            Some((
                Summary::of(recoveries.iter().map(|recovery| recovery.time).collect())?,
                undisturbed,
            ))
        };
        all.iter()
            .filter_map(|(name, recoveries)| Some((*name, summarize(recoveries)?)))
            .collect()
    }
}

/// Succeeds if the events have arrived in the component: in ClickHouse or, if
/// the path to ClickHouse may be disturbed, at the external system.
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
    Err(format!("{rows:?} of {} events have arrived", ids.len()))
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

/// Succeeds once a complete board has been published after the call.
fn board_is_fresh(stage: &Stage) -> Result<(), String> {
    let start_us = jiff::Timestamp::now().as_microsecond();
    let min_ahead = FRESH.as_micros();
    let state = wait_until(Duration::from_secs(2), || {
        let state = reader::current(stage).ok_or("there is no board")?;
        let ahead = i128::from(state.as_of_us - start_us);
        if state.complete && ahead >= i128::try_from(min_ahead).unwrap_or(0) {
            return Ok(state);
        }
        Err(format!("as of {} s ago", -ahead / 1_000_000))
    });
    state.map(|_| ())
}
