//! The expected board as a function of the log, of positions in it, and of a
//! time. Implemented independently of the product, from the documented
//! guarantee alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::log::{Change, Event, Line, Log};

/// Scores by content id.
pub type Scores = BTreeMap<String, i64>;

/// The rules for which events count.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub window_us: i64,
    /// How far an event may be ahead of its record's time.
    pub skew_us: i64,
}

/// The log, replayed up to the requested positions.
pub struct Model<'a> {
    rules: Rules,
    partitions: Vec<Replay<'a>>,
}

/// The replay of one partition, which has all changes of its ids.
struct Replay<'a> {
    lines: &'a [Line],
    /// Number of replayed lines.
    done: usize,
    /// The latest change of each event that may count.
    latest: HashMap<i64, &'a Event>,
    by_time: BTreeSet<(i64, i64)>,
}

impl<'a> Model<'a> {
    pub fn new(log: &'a Log, rules: Rules) -> Self {
        let partitions = log.iter().map(|lines| Replay::new(lines)).collect();
        Self { rules, partitions }
    }

    /// Returns the board for these positions at this time.
    pub fn board(&mut self, positions: &[i64], as_of_us: i64) -> Scores {
        let mut scores = Scores::new();
        let from = as_of_us - self.rules.window_us;
        for (replay, position) in self.partitions.iter_mut().zip(positions) {
            replay.seek(*position, self.rules);
            let due = replay
                .by_time
                .range((from + 1, i64::MIN)..=(as_of_us, i64::MAX));
            for (_, id) in due {
                if let Some(content) = &replay.latest[id].content {
                    *scores.entry(content.clone()).or_default() += 1;
                }
            }
        }
        scores
    }
}

impl<'a> Replay<'a> {
    fn new(lines: &'a [Line]) -> Self {
        Self {
            lines,
            done: 0,
            latest: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    fn seek(&mut self, position: i64, rules: Rules) {
        let target = self.lines.partition_point(|line| line.offset < position);
        if target < self.done {
            *self = Self::new(self.lines);
        }
        for line in &self.lines[self.done..target] {
            self.apply(line, rules);
        }
        self.done = target;
    }

    fn apply(&mut self, line: &'a Line, rules: Rules) {
        let (id, event) = match &line.change {
            Change::Upsert(event) => (event.id, Some(event)),
            Change::Delete(id) => (*id, None),
            Change::Ignored | Change::Poison => return,
        };
        if let Some(old) = self.latest.remove(&id) {
            self.by_time.remove(&(old.at_us, id));
        }
        if let Some(event) = event.filter(|event| counts(event, line, rules)) {
            self.latest.insert(id, event);
            self.by_time.insert((event.at_us, id));
        }
    }
}

/// Returns true if an event is on the board while its time is in the window.
pub fn counts(event: &Event, line: &Line, rules: Rules) -> bool {
    event.content.is_some() && event.at_us <= line.time_us + rules.skew_us
}

/// A test with a small log that has each kind of change.
pub mod tests {
    use serde_json::Value as Json;

    use super::{Change, Event, Line, Model, Rules};

    fn event(id: i64, content: &str, at_us: i64) -> Change {
        Change::Upsert(Event {
            id,
            content: (!content.is_empty()).then(|| content.to_owned()),
            at_us,
            is_insert: true,
            row: Json::Null,
        })
    }

    pub fn a_board_is_a_function_of_positions_and_time() {
        let changes = [
            event(1, "a", 100),
            event(2, "a", 140),
            event(1, "b", 100),
            Change::Poison,
            event(3, "", 100),
            event(4, "c", 1_000),
            Change::Delete(2),
        ];
        let line = |(offset, change): (i64, Change)| Line {
            offset: 10 * offset,
            time_us: 100,
            change,
        };
        let log = vec![(0..).zip(changes).map(line).collect()];
        let rules = Rules {
            window_us: 50,
            skew_us: 500,
        };
        let mut model = Model::new(&log, rules);
        let mut board = |position, as_of| {
            let scores = model.board(&[position], as_of).into_iter();
            let text: Vec<String> = scores.map(|(id, score)| format!("{id}{score}")).collect();
            text.join(" ")
        };
        assert_eq!(board(0, 149), "");
        assert_eq!(board(1, 149), "a1");
        assert_eq!(board(11, 149), "a2");
        assert_eq!(board(11, 150), "a1", "the start of the window is excluded");
        assert_eq!(board(11, 139), "a1", "events after `as_of` do not count");
        assert_eq!(board(21, 149), "a1 b1", "event 1 has moved");
        assert_eq!(board(70, 149), "b1", "event 2 is deleted");
        assert_eq!(board(70, 1_001), "", "too far ahead of its record");
        assert_eq!(
            board(11, 149),
            "a2",
            "an earlier position after a later one"
        );
    }
}
