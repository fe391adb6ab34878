//! The oracle, when all has been mended: what the stores hold, held against
//! the source and the log, and every board that was ever published against
//! the model.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    str::FromStr as _,
    time::Duration,
};

use fanout::clients::{
    Connection,
    postgres::{Postgres, Row},
};
use serde_json::{Value as Json, json};

use crate::{
    acknowledged::{Known, Look, SINKS},
    log::{Broker, Change, EVENTS, Event, Letter, Log, PARTITIONS},
    model::{Model, Rules, Scores, counts},
    reader::{self, Reading, State},
    stage::{Stage, WINDOW_SECONDS, until},
    support::wait_for,
};

/// Differences of one kind that are shown.
const SHOWN: usize = 5;
/// For what is under way to arrive.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// An event may be so far ahead of its record: the default.
const SKEW_SECONDS: i64 = 300;
const SECOND_US: i64 = 1_000_000;

/// The end of the log as somebody saw it, and when.
#[derive(Debug)]
pub struct Seen {
    pub at_us: i64,
    pub ends: Vec<i64>,
}

/// What was compared, for the report.
#[derive(Debug, Default)]
pub struct Judged {
    pub counts: BTreeMap<&'static str, usize>,
}

pub struct Oracle<'a> {
    stage: &'a Stage,
    log: Log,
    letters: Vec<Letter>,
    judged: Judged,
}

/// Judges a stack that has come to rest.
pub fn judge(stage: &Stage, reading: &Reading, looks: &[Look], seen: &[Seen]) -> Judged {
    let broker = stage.broker();
    verify(stage);
    let mut oracle = Oracle {
        stage,
        log: broker.log(),
        letters: broker.letters(),
        judged: Judged::default(),
    };
    oracle.offsets(&broker);
    oracle.rows();
    oracle.calls(looks);
    oracle.letters();
    oracle.board_now();
    oracle.boards(&reading.states, seen);
    oracle.differ("a board nobody can read", reading.unreadable.clone());
    oracle.judged
}

/// `fanout verify` waits until everything is caught up, and finds nothing.
fn verify(stage: &Stage) {
    let ended = stage
        .judge
        .run(&["--output", "json", "verify", "--timeout", "180s"]);
    let report = (ended.code == Some(0)).then(|| ended.document());
    let clean = report.as_ref().is_some_and(|report| {
        let checks = report["checks"].as_array().expect("checks");
        let judged = |check: &&Json| check["notes"] == json!([]) && check["compared"] != 0;
        report["differences"] == 0 && checks.iter().filter(judged).count() == 4
    });
    if !clean {
        stage.found(format!("verify: {}", ended.evidence()));
    }
}

impl Oracle<'_> {
    fn count(&mut self, what: &'static str, count: usize) {
        self.judged.counts.insert(what, count);
    }

    fn differ(&self, what: &str, differences: Vec<String>) {
        if differences.is_empty() {
            return;
        }
        let shown: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
        self.stage.found(format!(
            "{what}: {} differences\n  {}",
            differences.len(),
            shown.join("\n  ")
        ));
    }

    /// Every group has committed the end, and not more.
    fn offsets(&self, broker: &Broker) {
        for sink in SINKS {
            let group = format!("fanout-{sink}");
            let settled = until(SETTLES_WITHIN, || {
                let ends = broker
                    .ends(EVENTS, PARTITIONS)
                    .map_err(|it| it.to_string())?;
                let committed = broker.committed(&group).map_err(|it| it.to_string())?;
                let ends: Vec<Option<i64>> = ends.into_iter().map(Some).collect();
                let same = committed == ends;
                same.then_some(())
                    .ok_or(format!("committed {committed:?} of {ends:?}"))
            });
            if let Err(instead) = settled {
                self.differ(&group, vec![instead]);
            }
        }
    }

    /// The view equals the join, but for events whose latest record is poison.
    fn rows(&mut self) {
        let excused = self.excused();
        let expected = table(&join(self.stage), &excused);
        let view = self.stage.clickhouse(VIEW).expect("clickhouse");
        let found = table(&view, &excused);
        self.count("rows", expected.len());
        self.count("rows excused by poison", excused.len());
        self.differ("the table is not the join", differences(&expected, &found));
    }

    /// Events whose latest record nobody understands.
    fn excused(&self) -> BTreeSet<i64> {
        // The poison that is put into the log is no change of the source: the
        // row in Postgres says which events have no time that is one.
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

    /// Every insert has been accepted, under one key, with one body; and no
    /// commit was ever past what was there.
    fn calls(&mut self, looks: &[Look]) {
        let calls = calls(self.stage);
        let mut places: HashMap<String, u64> = HashMap::new();
        let mut wrong = Vec::new();
        for call in &calls {
            let row = canonical(&call["body"]);
            let place = call["seq"].as_u64().expect("a place");
            if places.insert(row.clone(), place).is_some() {
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
        let accepted: BTreeSet<String> = places.keys().cloned().collect();
        let missing = inserts.difference(&accepted);
        wrong.extend(missing.map(|row| format!("never accepted: {row}")));
        let extra = accepted.difference(&inserts);
        wrong.extend(extra.map(|row| format!("never inserted: {row}")));
        self.count("inserts accepted", inserts.len());
        self.differ("the external system", wrong);
        self.commits(looks, &|event| places.get(&canonical(&event.row)).copied());
    }

    fn commits(&mut self, looks: &[Look], calls: &dyn Fn(&Event) -> Option<u64>) {
        let mut letters = HashMap::new();
        for letter in &self.letters {
            let (partition, offset) = letter.record;
            letters
                .entry((letter.sink.as_str(), partition, offset))
                .or_insert(letter.offset);
        }
        let known = Known {
            log: &self.log,
            letters: &letters,
            calls,
        };
        let missing = looks.iter().flat_map(|look| look.missing(&known));
        let missing: BTreeMap<_, String> = missing.collect();
        let missing = missing.into_values().collect();
        self.differ("committed past what was acknowledged", missing);
        self.count("looks at committed offsets", looks.len());
    }

    /// Each poison is a dead letter of each sink, at its position; nothing
    /// else is.
    fn letters(&mut self) {
        let mut expected = BTreeSet::new();
        for (partition, lines) in self.log.iter().enumerate() {
            for line in lines.iter().filter(|line| line.change == Change::Poison) {
                expected.extend(SINKS.map(|sink| (sink, partition, line.offset)));
            }
        }
        let found: BTreeSet<(&str, usize, i64)> = self
            .letters
            .iter()
            .map(|letter| (letter.sink.as_str(), letter.record.0, letter.record.1))
            .collect();
        let missing = expected.difference(&found);
        let extra = found.difference(&expected);
        let wrong = missing
            .map(|at| format!("no letter of {at:?}"))
            .chain(extra.map(|at| format!("a letter of {at:?}, which is no poison")));
        let wrong = wrong.collect();
        self.differ("dead letters", wrong);
        let count = found.len();
        self.count("dead letters", count);
        let lines = self.log.iter().map(Vec::len).sum();
        self.count("records in the log", lines);
    }

    /// The board that stands now is what SQL makes of the source: nothing is
    /// under way any more.
    fn board_now(&self) {
        let asked_us = jiff::Timestamp::now().as_microsecond();
        let fresh = until(SETTLES_WITHIN, || {
            let state = reader::now(self.stage).ok_or("there is no board")?;
            let is_fresh = state.complete && state.as_of_us > asked_us;
            is_fresh.then_some(state).ok_or("no fresh board".to_owned())
        });
        let state = match fresh {
            Ok(state) => state,
            Err(instead) => return self.differ("the board", vec![instead]),
        };
        let excused = self.excused();
        let mut barred = excused.clone();
        let mut understood = BTreeMap::new();
        for line in self.log.iter().flatten() {
            let (id, event) = match &line.change {
                Change::Upsert(event) => (event.id, Some(event)),
                Change::Delete(id) => (*id, None),
                Change::Ignored | Change::Poison => continue,
            };
            // The latest change of an event decides.
            let counts = event.filter(|event| counts(event, line, rules()));
            if counts.is_none() {
                barred.insert(id);
            } else if !excused.contains(&id) {
                barred.remove(&id);
            }
            understood.insert(id, counts);
        }
        let mut expected = board_in_sql(self.stage, state.as_of_us, &barred);
        let window = state.as_of_us - rules().window_us + 1..=state.as_of_us;
        for event in excused.iter().filter_map(|id| *understood.get(id)?) {
            if let Some(content) = event
                .content
                .as_ref()
                .filter(|_| window.contains(&event.at_us))
            {
                *expected.entry(content.clone()).or_default() += 1;
            }
        }
        if expected != state.scores {
            self.differ(
                "the board is not what SQL says",
                vec![apart(&expected, &state)],
            );
        }
    }

    /// Every state that was published is what the model makes of its positions
    /// and moment; a complete one held all there was.
    fn boards(&mut self, states: &[State], seen: &[Seen]) {
        let mut in_order: Vec<&State> = states.iter().collect();
        in_order.sort_by_key(|state| state.positions.iter().sum::<i64>());
        let mut model = Model::new(&self.log, rules());
        let mut wrong = Vec::new();
        let mut stale = Vec::new();
        for state in in_order {
            let expected = model.board(&state.positions, state.as_of_us);
            if expected != state.scores || state.window_seconds != WINDOW_SECONDS {
                wrong.push(apart(&expected, state));
            }
            stale.extend(falls_short(state, seen));
        }
        drop(model);
        self.count("boards", states.len());
        let complete = states.iter().filter(|state| state.complete).count();
        self.count("boards that said they were complete", complete);
        self.differ("boards are not the model's", wrong);
        self.differ("boards say they are complete and are not", stale);
    }
}

/// In what a board is not as expected: its members that are not, and where and
/// when it was published.
fn apart(expected: &Scores, state: &State) -> String {
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

/// A complete board holds all that anybody saw in the log before the moment up
/// to which it says it does.
fn falls_short(state: &State, seen: &[Seen]) -> Option<String> {
    if !state.complete {
        return None;
    }
    let knows_until = state.as_of_us - state.behind_ms * 1000 - SECOND_US / 10;
    let before = seen.partition_point(|seen| seen.at_us < knows_until);
    let last = seen[..before].last()?;
    let short = state
        .positions
        .iter()
        .zip(&last.ends)
        .any(|(at, end)| at < end);
    short.then(|| format!("{last:?} before {state:?}"))
}

/// All that the external system has accepted, in its order.
fn calls(stage: &Stage) -> Vec<Json> {
    let mut calls = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let page = stage.accepted(&format!("limit=1000&after={after}"));
        let page = page.expect("the stub");
        calls.extend(page["events"].as_array().expect("events").iter().cloned());
        after = page["next"].clone();
    }
    calls
}

/// The columns of an event, the same for the same event whoever wrote them.
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

/// Rows of tab-separated cells, the first their id.
fn table(text: &str, without: &BTreeSet<i64>) -> Rows {
    let rows = text.lines().filter(|line| !line.is_empty());
    let rows = rows.map(|line| {
        let id = line.split('\t').next().expect("a cell");
        (id.parse().expect("an id"), line.to_owned())
    });
    rows.filter(|(id, _)| !without.contains(id)).collect()
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

/// The view, each cell as text, a missing one as a tilde.
const VIEW: &str = "SELECT event_id,
        ifNull(toString(content_id), '~'), ifNull(toString(user_id), '~'),
        ifNull(toString(event_type), '~'), toString(event_ts),
        ifNull(toString(duration_ms), '~'),
        ifNull(toDecimalString(engagement_seconds, 3), '~'),
        ifNull(toDecimalString(engagement_pct, 2), '~'),
        ifNull(hex(device), '~'), ifNull(hex(raw_payload), '~'),
        ifNull(toString(content_type), '~'), ifNull(toString(length_seconds), '~')
    FROM analytics.engagement_enriched ORDER BY event_id FORMAT TSVRaw";

/// The join, in the same form.
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

/// What the source makes of the board at a moment.
fn board_in_sql(stage: &Stage, as_of_us: i64, barred: &BTreeSet<i64>) -> BTreeMap<String, i64> {
    let barred: Vec<i64> = barred.iter().copied().collect();
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
            .query(sql, &[&as_of, &window, &barred])
            .await
            .expect("the board")
    });
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
