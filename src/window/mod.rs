//! The rolling board: which events count at a moment, and what they make of
//! each content's score.
//!
//! A state machine without a clock: changes are applied in the log's order,
//! time is moved by [`Window::advance`], both exact to the microsecond. What
//! counts depends on the latest change of each id alone, so snapshots,
//! replays, updates and deletes are harmless. Publishing is the sink's.

mod board;
mod schedule;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use uuid::Uuid;

use board::Board;
use schedule::Schedule;

pub use board::Score;

/// A clock that is behind the board by more than this, in microseconds, was set
/// back. One that is corrected by less is waited for.
pub const MAX_FALL_US: i64 = 1_000_000;

/// What a board shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSettings {
    /// How long an event counts, in microseconds.
    pub window_us: i64,
    /// How far an event may be ahead of its record, in microseconds.
    pub skew_us: i64,
    pub score: Score,
}

/// The columns of an event that matter to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardEvent {
    pub content_id: Option<Uuid>,
    /// Microseconds since the epoch.
    pub event_ts: i64,
    pub duration_ms: Option<i32>,
}

/// What became of an applied change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The event is on the board.
    Counted,
    /// The event is ahead of the clock and will be on the board.
    Waiting,
    /// The event has left the window already.
    TooOld,
    /// The event is further ahead of its record than the skew. It will not
    /// count, even when its time comes.
    TooFarAhead,
    /// The event is of no content.
    NoContent,
    /// The event is gone.
    Deleted,
}

impl Applied {
    /// The stable name used in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Waiting => "waiting",
            Self::TooOld => "too_old",
            Self::TooFarAhead => "too_far_ahead",
            Self::NoContent => "no_content",
            Self::Deleted => "deleted",
        }
    }
}

/// An event that counts or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    content: Uuid,
    event_ts: i64,
    /// Never negative.
    duration_ms: u32,
    /// Whether it is on the board; else it waits.
    counted: bool,
}

/// The events of `as_of − window < event_ts ≤ as_of`, and those that wait to
/// be. Holds no others, so its memory is bounded by what arrives in a window
/// and the skew.
#[derive(Debug)]
pub struct Window {
    settings: WindowSettings,
    as_of_us: i64,
    events: HashMap<i64, Kept>,
    /// When counted events leave. An event that changed is still in its old
    /// place too.
    leaving: Schedule,
    /// When waiting events enter, likewise.
    entering: Schedule,
    board: Board,
}

impl Window {
    /// An empty board at this moment, in microseconds since the epoch. A board
    /// that is rebuilt from the log begins at the present, so that it keeps
    /// nothing that has left the window.
    #[must_use]
    pub fn new(settings: WindowSettings, as_of_us: i64) -> Self {
        Self {
            settings,
            as_of_us,
            events: HashMap::new(),
            leaving: Schedule::default(),
            entering: Schedule::default(),
            board: Board::new(settings.score),
        }
    }

    /// Applies the latest change of an event: what it is now, or `None` where
    /// it was deleted. `record_time_us` is when its record was appended.
    pub fn apply(&mut self, id: i64, event: Option<BoardEvent>, record_time_us: i64) -> Applied {
        let (outcome, kept) = self.judge(event, record_time_us);
        let old = match kept {
            Some(kept) => self.events.insert(id, kept),
            None => self.events.remove(&id),
        };
        if old == kept {
            return outcome;
        }
        if let Some(old) = old.filter(|old| old.counted) {
            self.board.remove(old.content, old.duration_ms);
        }
        if let Some(kept) = kept {
            self.schedule(id, kept);
            if kept.counted {
                self.board.add(kept.content, kept.duration_ms);
            }
        }
        self.drop_outdated();
        outcome
    }

    /// Whether the clock was set back to `now_us`. Events that count then may
    /// have left the window already, and only the log still has them: the board
    /// has to be built again, in a new window.
    #[must_use]
    pub fn has_outrun(&self, now_us: i64) -> bool {
        self.as_of_us.saturating_sub(now_us) > MAX_FALL_US
    }

    /// Moves the clock. Events leave and enter. The board never goes back: to an
    /// earlier moment it stays as it is.
    pub fn advance(&mut self, as_of_us: i64) {
        self.as_of_us = self.as_of_us.max(as_of_us);
        while let Some((event_ts, id)) = self.entering.pop_due(self.as_of_us) {
            let waits = |kept: &&mut Kept| kept.event_ts == event_ts && !kept.counted;
            if let Some(kept) = self.events.get_mut(&id).filter(waits) {
                kept.counted = true;
                self.leaving.push(event_ts, id);
                self.board.add(kept.content, kept.duration_ms);
            }
        }
        let edge = self.edge();
        while let Some((event_ts, id)) = self.leaving.pop_due(edge) {
            if let Entry::Occupied(event) = self.events.entry(id)
                && event.get().event_ts == event_ts
            {
                let kept = event.remove();
                self.board.remove(kept.content, kept.duration_ms);
            }
        }
    }

    /// The moment the board is of, in microseconds since the epoch.
    #[must_use]
    pub fn as_of_us(&self) -> i64 {
        self.as_of_us
    }

    /// The contents whose score is not what was last drained, with the score
    /// they have now; `None` where one left the board. Draining says they are
    /// published: a publisher that fails afterwards has to publish
    /// [`Window::scores`] whole.
    pub fn changed(&mut self) -> Vec<(Uuid, Option<i64>)> {
        self.board.changed()
    }

    /// The whole board, in no order. To publish it instead of differences,
    /// drain [`Window::changed`] as well.
    pub fn scores(&self) -> impl Iterator<Item = (Uuid, i64)> + '_ {
        self.board.scores()
    }

    /// How many contents are on the board.
    #[must_use]
    pub fn cardinality(&self) -> usize {
        self.board.cardinality()
    }

    /// How many events are kept: on the board or waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The latest time that has left the window.
    fn edge(&self) -> i64 {
        self.as_of_us.saturating_sub(self.settings.window_us)
    }

    fn judge(&self, event: Option<BoardEvent>, record_time_us: i64) -> (Applied, Option<Kept>) {
        let Some(event) = event else {
            return (Applied::Deleted, None);
        };
        let Some(content) = event.content_id else {
            return (Applied::NoContent, None);
        };
        if event.event_ts > record_time_us.saturating_add(self.settings.skew_us) {
            return (Applied::TooFarAhead, None);
        }
        if event.event_ts <= self.edge() {
            return (Applied::TooOld, None);
        }
        let counted = event.event_ts <= self.as_of_us;
        let kept = Kept {
            content,
            event_ts: event.event_ts,
            duration_ms: event.duration_ms.unwrap_or(0).max(0).unsigned_abs(),
            counted,
        };
        let outcome = if counted {
            Applied::Counted
        } else {
            Applied::Waiting
        };
        (outcome, Some(kept))
    }

    fn schedule(&mut self, id: i64, kept: Kept) {
        let schedule = if kept.counted {
            &mut self.leaving
        } else {
            &mut self.entering
        };
        schedule.push(kept.event_ts, id);
    }

    /// Keeps the schedules within twice what they are for, however often an
    /// event changes its time.
    fn drop_outdated(&mut self) {
        const SLACK: usize = 1_024;
        if self.leaving.len() + self.entering.len() <= 2 * self.events.len() + SLACK {
            return;
        }
        self.leaving = Schedule::default();
        self.entering = Schedule::default();
        let events: Vec<_> = self.events.iter().map(|(id, kept)| (*id, *kept)).collect();
        for (id, kept) in events {
            self.schedule(id, kept);
        }
    }
}
