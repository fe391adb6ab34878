//! The score of each content item with events, and the scores that changed since they were last
//! drained.

use hashbrown::{HashMap, HashSet};
use uuid::Uuid;

/// The quantity that a score counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Score {
    /// Distinct events.
    Events,
    /// `floor(Σ max(duration_ms, 0) / 1000)`. A missing duration counts as 0. A content item
    /// whose events sum to 0 seconds is on the board with 0, as in SQL's sum by content.
    Seconds,
}

/// Totals of a content item's events.
#[derive(Debug, Default)]
struct Tally {
    events: u64,
    duration_ms: u64,
    /// The score last drained. `None` if the content item was not on the board.
    published: Option<i64>,
    /// Whether the content item is in `touched`.
    touched: bool,
}

#[derive(Debug)]
pub(super) struct Board {
    score: Score,
    /// Content items on the board, and those that left it since the last drain.
    tallies: HashMap<Uuid, Tally>,
    touched: HashSet<Uuid>,
    cardinality: usize,
}

impl Board {
    pub(super) fn new(score: Score) -> Self {
        Self {
            score,
            tallies: HashMap::new(),
            touched: HashSet::new(),
            cardinality: 0,
        }
    }

    pub(super) fn add(&mut self, content: Uuid, duration_ms: u32) {
        let tally = self.tallies.entry(content).or_default();
        self.cardinality += usize::from(tally.events == 0);
        tally.events += 1;
        tally.duration_ms += u64::from(duration_ms);
        touch(&mut self.touched, content, tally);
    }

    /// Reverts one [`Board::add`].
    pub(super) fn remove(&mut self, content: Uuid, duration_ms: u32) {
        let Some(tally) = self.tallies.get_mut(&content) else {
            return;
        };
        tally.events = tally.events.saturating_sub(1);
        tally.duration_ms = tally.duration_ms.saturating_sub(u64::from(duration_ms));
        if tally.events > 0 || tally.published.is_some() {
            self.cardinality -= usize::from(tally.events == 0);
            touch(&mut self.touched, content, tally);
            return;
        }
        // The content item came and left between two drains: remove it without a trace.
        self.cardinality -= 1;
        self.tallies.remove(&content);
        self.touched.remove(&content);
    }

    pub(super) fn changed(&mut self) -> Vec<(Uuid, Option<i64>)> {
        let mut changed = Vec::new();
        for content in self.touched.drain() {
            let Some(tally) = self.tallies.get_mut(&content) else {
                continue;
            };
            tally.touched = false;
            let score = self.score.of(tally);
            if tally.published != score {
                tally.published = score;
                changed.push((content, score));
            }
            if score.is_none() {
                self.tallies.remove(&content);
            }
        }
        changed
    }

    pub(super) fn scores(&self) -> impl Iterator<Item = (Uuid, i64)> + '_ {
        self.tallies
            .iter()
            .filter_map(|(content, tally)| Some((*content, self.score.of(tally)?)))
    }

    pub(super) fn cardinality(&self) -> usize {
        self.cardinality
    }
}

fn touch(touched: &mut HashSet<Uuid>, content: Uuid, tally: &mut Tally) {
    if !tally.touched {
        tally.touched = true;
        touched.insert(content);
    }
}

impl Score {
    /// Returns the score, or `None` if there are no events.
    fn of(self, tally: &Tally) -> Option<i64> {
        if tally.events == 0 {
            return None;
        }
        let score = match self {
            Self::Events => tally.events,
            Self::Seconds => tally.duration_ms / 1_000,
        };
        i64::try_from(score).ok()
    }
}
