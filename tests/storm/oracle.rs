//! The oracle, used after all faults are repaired: compares the contents of the
//! stores with the source and the log, and every published board with the
//! model.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    str::FromStr as _,
    time::Duration,
};

use fanout::connections::{
    Connection,
    postgres::{Postgres, Row},
};
use serde_json::{Value as Json, json};

use crate::{
    acknowledged::{FinalState, Observation, SINKS},
    log::{Broker, Change, DeadLetter, EVENTS, Event, Log, PARTITIONS},
    model::{Model, Rules, Scores, counts},
    reader::{self, Reading, State},
    stage::{Stage, WINDOW_SECONDS, wait_until},
    support::wait_for,
};

/// Maximum number of differences shown per kind.
const SHOWN: usize = 5;
/// Time limit for the remaining records to arrive.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// How far an event may be ahead of its record: the default.
const SKEW_SECONDS: i64 = 300;
const SECOND_US: i64 = 1_000_000;

/// The end offsets of the log, and when they were read.
#[derive(Debug)]
pub struct LogEnds {
    pub at_us: i64,
    pub ends: Vec<i64>,
}

/// The numbers of comparisons, for the report.
#[derive(Debug, Default)]
pub struct Comparisons {
    pub counts: BTreeMap<&'static str, usize>,
}

pub struct Oracle<'a> {
    stage: &'a Stage,
    log: Log,
    dead_letters: Vec<DeadLetter>,
    comparisons: Comparisons,
}

/// Checks a stack that has caught up.
pub fn compare(
    stage: &Stage,
    reading: &Reading,
    observations: &[Observation],
    log_ends: &[LogEnds],
) -> Comparisons {
    let broker = stage.broker();
    verify(stage);
    let mut oracle = Oracle {
        stage,
        log: broker.log(),
        dead_letters: broker.dead_letters(),
        comparisons: Comparisons::default(),
    };
    oracle.check_offsets(&broker);
    oracle.check_rows();
    oracle.check_calls(observations);
    oracle.check_dead_letters();
    oracle.check_current_board();
    oracle.check_boards(&reading.states, log_ends);
    oracle.report("unreadable boards", reading.unreadable.clone());
    oracle.comparisons
}

/// Runs `fanout verify`, which waits until the stack has caught up and must
/// find no difference.
fn verify(stage: &Stage) {
    let ended = stage
        .oracle
        .run(&["--output", "json", "verify", "--timeout", "180s"]);
    let report = (ended.code == Some(0)).then(|| ended.document());
    let is_clean = report.as_ref().is_some_and(|report| {
        let checks = report["checks"].as_array().expect("checks");
        let is_complete = |check: &&Json| check["notes"] == json!([]) && check["compared"] != 0;
        report["differences"] == 0 && checks.iter().filter(is_complete).count() == 4
    });
    if !is_clean {
        stage.report(format!("verify: {}", ended.evidence()));
    }
}

impl Oracle<'_> {
    fn count(&mut self, name: &'static str, count: usize) {
        self.comparisons.counts.insert(name, count);
    }

    fn report(&self, name: &str, differences: Vec<String>) {
        if differences.is_empty() {
            return;
        }
        let shown: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
        self.stage.report(format!(
            "{name}: {} differences\n  {}",
            differences.len(),
            shown.join("\n  ")
        ));
    }

    /// Every group has committed exactly the end offsets.
    fn check_offsets(&self, broker: &Broker) {
        for sink in SINKS {
            let group = format!("fanout-{sink}");
            let outcome = wait_until(CATCH_UP_TIMEOUT, || {
                let ends = broker
                    .end_offsets(EVENTS, PARTITIONS)
                    .map_err(|error| error.to_string())?;
                let committed = broker.committed(&group);
                let committed = committed.map_err(|error| error.to_string())?;
                let ends: Vec<Option<i64>> = ends.into_iter().map(Some).collect();
                let is_equal = committed == ends;
                is_equal
                    .then_some(())
                    .ok_or(format!("committed {committed:?} of {ends:?}"))
            });
            if let Err(error) = outcome {
                self.report(&group, vec![error]);
            }
        }
    }

    /// The view equals the join, except for events whose latest record is
    /// undecodable.
    fn check_rows(&mut self) {
        let excused = self.excused();
        let expected = table(&join(self.stage), &excused);
        let view = self.stage.clickhouse(VIEW).expect("clickhouse");
        let found = table(&view, &excused);
        self.count("rows", expected.len());
        self.count("rows excused by undecodable records", excused.len());
        let differences = differences(&expected, &found);
        self.report("the view differs from the join", differences);
    }

    /// Returns the events whose latest record is undecodable.
    fn excused(&self) -> BTreeSet<i64> {
        // Undecodable records that were written directly into the log are not
        // changes of the source. The rows in Postgres show which events have an
        // invalid time.
        wait_for(async {
            let url = self.stage.stack.stores.url("FANOUT_POSTGRES_URL");
            let client = Postgres::new(Connection::new(url.into()))
                .connect()
                .await
                .expect("postgres");
            let ids = "SELECT id FROM engagement_events
                       WHERE NOT isfinite(event_ts) OR event_ts > '9999-01-01'";
            let rows = client.query(ids, &[]).await.expect("ids");
            rows.iter().map(|row| row.get(0)).collect()
        })
    }

    /// Every insert was accepted under one key and with one body, and no commit
    /// was past the acknowledged records.
    fn check_calls(&mut self, observations: &[Observation]) {
        let calls = accepted_calls(self.stage);
        let mut positions_by_row: HashMap<String, u64> = HashMap::new();
        let mut wrong = Vec::new();
        for call in &calls {
            let row = canonical(&call["body"]);
            let position = call["seq"].as_u64().expect("a position");
            if positions_by_row.insert(row.clone(), position).is_some() {
                wrong.push(format!("accepted under two keys: {row}"));
            }
        }
        let lines = self.log.iter().flatten();
        let inserts: BTreeSet<String> = lines
            .filter_map(|line| match &line.change {
                Change::Upsert(event) if event.is_insert => Some(canonical(&event.row)),
                _ => None,
            })
            .collect();
        let accepted: BTreeSet<String> = positions_by_row.keys().cloned().collect();
        let missing = inserts.difference(&accepted);
        wrong.extend(missing.map(|row| format!("never accepted: {row}")));
        let extra = accepted.difference(&inserts);
        wrong.extend(extra.map(|row| format!("never inserted: {row}")));
        self.count("inserts accepted", inserts.len());
        self.report("the external system", wrong);
        self.check_commits(observations, &|event| {
            positions_by_row.get(&canonical(&event.row)).copied()
        });
    }

    fn check_commits(
        &mut self,
        observations: &[Observation],
        calls: &dyn Fn(&Event) -> Option<u64>,
    ) {
        let mut dead_letters = HashMap::new();
        for dead_letter in &self.dead_letters {
            let (partition, offset) = dead_letter.record;
            dead_letters
                .entry((dead_letter.sink.as_str(), partition, offset))
                .or_insert(dead_letter.offset);
        }
        let state = FinalState {
            log: &self.log,
            dead_letters: &dead_letters,
            calls,
        };
        let missing = observations
            .iter()
            .flat_map(|observation| observation.missing(&state));
        let missing: BTreeMap<_, String> = missing.collect();
        let missing = missing.into_values().collect();
        self.report("commits past acknowledged records", missing);
        self.count("observations of committed offsets", observations.len());
    }

    /// Each undecodable record has one dead letter for each sink, at its
    /// position, and there are no other dead letters.
    fn check_dead_letters(&mut self) {
        let mut expected = BTreeSet::new();
        for (partition, lines) in self.log.iter().enumerate() {
            for line in lines.iter().filter(|line| line.change == Change::Poison) {
                expected.extend(SINKS.map(|sink| (sink, partition, line.offset)));
            }
        }
        let found: BTreeSet<(&str, usize, i64)> = self
            .dead_letters
            .iter()
            .map(|letter| (letter.sink.as_str(), letter.record.0, letter.record.1))
            .collect();
        let missing = expected.difference(&found);
        let extra = found.difference(&expected);
        let wrong = missing
            .map(|at| format!("no dead letter for {at:?}"))
            .chain(extra.map(|at| format!("a dead letter for {at:?}, which is decodable")));
        let wrong = wrong.collect();
        self.report("dead letters", wrong);
        let count = found.len();
        self.count("dead letters", count);
        let lines = self.log.iter().map(Vec::len).sum();
        self.count("records in the log", lines);
    }

    /// The current board equals the result of SQL on the source, because no
    /// record is in flight.
    fn check_current_board(&self) {
        let start_us = jiff::Timestamp::now().as_microsecond();
        let fresh = wait_until(CATCH_UP_TIMEOUT, || {
            let state = reader::current(self.stage).ok_or("there is no board")?;
            let is_fresh = state.complete && state.as_of_us > start_us;
            is_fresh.then_some(state).ok_or("no fresh board".to_owned())
        });
        let state = match fresh {
            Ok(state) => state,
            Err(error) => return self.report("the board", vec![error]),
        };
        let excused = self.excused();
        let mut excluded = excused.clone();
        let mut latest = BTreeMap::new();
        for line in self.log.iter().flatten() {
            let (id, event) = match &line.change {
                Change::Upsert(event) => (event.id, Some(event)),
                Change::Delete(id) => (*id, None),
                Change::Ignored | Change::Poison => continue,
            };
            // The latest change of an event decides.
            let counts = event.filter(|event| counts(event, line, rules()));
            if counts.is_none() {
                excluded.insert(id);
            } else if !excused.contains(&id) {
                excluded.remove(&id);
            }
            latest.insert(id, counts);
        }
        let mut expected = board_in_sql(self.stage, state.as_of_us, &excluded);
        let window = state.as_of_us - rules().window_us + 1..=state.as_of_us;
        for event in excused.iter().filter_map(|id| *latest.get(id)?) {
            if let Some(content) = event
                .content
                .as_ref()
                .filter(|_| window.contains(&event.at_us))
            {
                *expected.entry(content.clone()).or_default() += 1;
            }
        }
        if expected != state.scores {
            let difference = describe_difference(&expected, &state);
            self.report("the board differs from SQL", vec![difference]);
        }
    }

    /// Every published state equals the model's board for its positions and
    /// time. A complete state has all records.
    fn check_boards(&mut self, states: &[State], log_ends: &[LogEnds]) {
        let mut in_order: Vec<&State> = states.iter().collect();
        in_order.sort_by_key(|state| state.positions.iter().sum::<i64>());
        let mut model = Model::new(&self.log, rules());
        let mut wrong = Vec::new();
        let mut stale = Vec::new();
        for state in in_order {
            let expected = model.board(&state.positions, state.as_of_us);
            if expected != state.scores || state.window_seconds != WINDOW_SECONDS {
                wrong.push(describe_difference(&expected, state));
            }
            stale.extend(lack_of_records(state, log_ends));
        }
        drop(model);
        self.count("boards", states.len());
        let complete = states.iter().filter(|state| state.complete).count();
        self.count("boards reported complete", complete);
        self.report("boards differ from the model", wrong);
        self.report("boards are reported complete but lack records", stale);
    }
}

/// Describes how a board differs from the expected one: its wrong members, its
/// positions and its time.
fn describe_difference(expected: &Scores, state: &State) -> String {
    let State { scores, .. } = state;
    let members: BTreeSet<&String> = expected.keys().chain(scores.keys()).collect();
    let wrong: Vec<String> = members
        .into_iter()
        .filter(|member| expected.get(*member) != scores.get(*member))
        .map(|member| {
            let score = |board: &Scores| board.get(member).copied().unwrap_or_default();
            format!("{member}: {}, not {}", score(scores), score(expected))
        })
        .collect();
    let shown = wrong.iter().take(SHOWN).map(String::as_str);
    format!(
        "as of {} at {:?}, sequence {}, complete {}, window {} s: {} of {} members are wrong: {}",
        state.as_of_us,
        state.positions,
        state.seq,
        state.complete,
        state.window_seconds,
        wrong.len(),
        expected.len(),
        shown.collect::<Vec<_>>().join("; ")
    )
}

fn rules() -> Rules {
    Rules {
        window_us: i64::try_from(WINDOW_SECONDS).expect("a short time") * SECOND_US,
        skew_us: SKEW_SECONDS * SECOND_US,
    }
}

/// Returns a difference if a complete board lacks records that were in the log
/// before the time up to which it claims to be complete.
fn lack_of_records(state: &State, log_ends: &[LogEnds]) -> Option<String> {
    if !state.complete {
        return None;
    }
    let complete_until = state.as_of_us - state.behind_ms * 1000 - SECOND_US / 10;
    let before = log_ends.partition_point(|ends| ends.at_us < complete_until);
    let last = log_ends[..before].last()?;
    let is_short = state
        .positions
        .iter()
        .zip(&last.ends)
        .any(|(position, end)| position < end);
    is_short.then(|| format!("{last:?} before {state:?}"))
}

/// Returns all calls that the external system has accepted, in order.
fn accepted_calls(stage: &Stage) -> Vec<Json> {
    let mut calls = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let page = stage.accepted(&format!("limit=1000&after={after}"));
        let page = page.expect("reach the stub");
        calls.extend(page["events"].as_array().expect("events").iter().cloned());
        after = page["next"].clone();
    }
    calls
}

/// Returns the event's columns as text that does not depend on the writer's
/// format.
fn canonical(row: &Json) -> String {
    let mut text = row["id"].to_string();
    for column in [
        "content_id",
        "user_id",
        "event_type",
        "duration_ms",
        "device",
    ] {
        let _ = write!(text, " {}", row[column]);
    }
    let time = row["event_ts"].as_str().expect("a time");
    let time = jiff::Timestamp::from_str(time).expect("a time");
    let payload = row["raw_payload"].as_str().unwrap_or("none");
    let _ = write!(text, " {} {payload}", time.as_microsecond());
    text
}

type Rows = BTreeMap<i64, String>;

/// Parses rows of tab-separated cells, whose first cell is the id.
fn table(text: &str, excluded_ids: &BTreeSet<i64>) -> Rows {
    let rows = text.lines().filter(|line| !line.is_empty());
    let rows = rows.map(|line| {
        let id = line.split('\t').next().expect("a cell");
        (id.parse().expect("an id"), line.to_owned())
    });
    rows.filter(|(id, _)| !excluded_ids.contains(id)).collect()
}

fn differences(expected: &Rows, found: &Rows) -> Vec<String> {
    let ids: BTreeSet<i64> = expected.keys().chain(found.keys()).copied().collect();
    let differs = ids
        .into_iter()
        .filter(|id| expected.get(id) != found.get(id));
    differs
        .map(|id| {
            let side = |rows: &Rows| rows.get(&id).cloned().unwrap_or("-".to_owned());
            format!("join: {}\n  view: {}", side(expected), side(found))
        })
        .collect()
}

/// The view, with each cell as text and null as a tilde.
const VIEW: &str = "SELECT event_id,
        ifNull(toString(content_id), '~'), ifNull(toString(user_id), '~'),
        ifNull(toString(event_type), '~'), toString(event_ts),
        ifNull(toString(duration_ms), '~'),
        ifNull(toDecimalString(engagement_seconds, 3), '~'),
        ifNull(toDecimalString(engagement_pct, 2), '~'),
        ifNull(hex(device), '~'), ifNull(hex(raw_payload), '~'),
        ifNull(toString(content_type), '~'), ifNull(toString(length_seconds), '~')
    FROM analytics.engagement_enriched ORDER BY event_id FORMAT TSVRaw";

/// The join in the same format.
const JOIN: &str = "SELECT e.id::text,
        coalesce(e.content_id::text, '~'), coalesce(e.user_id::text, '~'),
        coalesce(e.event_type, '~'),
        to_char(e.event_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
        coalesce(e.duration_ms::text, '~'),
        coalesce((e.duration_ms / 1000.0)::numeric(13, 3)::text, '~'),
        coalesce(CASE WHEN c.length_seconds > 0 THEN
            round((e.duration_ms / 1000.0) / c.length_seconds, 2)::numeric(12, 2)::text END, '~'),
        coalesce(upper(encode(convert_to(e.device, 'UTF8'), 'hex')), '~'),
        coalesce(upper(encode(convert_to(e.raw_payload::text, 'UTF8'), 'hex')), '~'),
        coalesce(c.content_type, '~'), coalesce(c.length_seconds::text, '~')
    FROM engagement_events e LEFT JOIN content c ON c.id = e.content_id ORDER BY e.id";

fn join(stage: &Stage) -> String {
    let rows = wait_for(async {
        let url = stage.stack.stores.url("FANOUT_POSTGRES_URL");
        let client = Postgres::new(Connection::new(url.into()))
            .connect()
            .await
            .expect("postgres");
        client.query(JOIN, &[]).await.expect("the join")
    });
    let line = |row: &Row| {
        let cells: Vec<String> = (0..row.len())
            .map(|cell| row.get::<_, Option<String>>(cell).unwrap_or_default())
            .collect();
        cells.join("\t")
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    lines.join("\n")
}

/// Computes the board at a time with SQL on the source.
fn board_in_sql(stage: &Stage, as_of_us: i64, excluded: &BTreeSet<i64>) -> BTreeMap<String, i64> {
    let excluded: Vec<i64> = excluded.iter().copied().collect();
    let window = f64::from(u32::try_from(WINDOW_SECONDS).expect("a short time"));
    let sql = "SELECT content_id::text, count(*) FROM engagement_events,
            (SELECT 'epoch'::timestamptz + $1 * interval '1 microsecond' AS as_of) AS moment
        WHERE content_id IS NOT NULL AND NOT id = ANY ($3)
            AND event_ts > as_of - $2 * interval '1 second' AND event_ts <= as_of
        GROUP BY 1";
    #[expect(clippy::cast_precision_loss, reason = "microseconds need 51 bits")]
    let as_of = as_of_us as f64;
    let rows = wait_for(async {
        let url = stage.stack.stores.url("FANOUT_POSTGRES_URL");
        let client = Postgres::new(Connection::new(url.into()))
            .connect()
            .await
            .expect("postgres");
        client
            .query(sql, &[&as_of, &window, &excluded])
            .await
            .expect("the board")
    });
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
