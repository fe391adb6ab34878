//! The rolling board: the events that count at a moment, and the resulting score of each
//! content item.
//!
//! A state machine without a clock. Changes are applied in the order of the log, and
//! [`Window::advance`] moves the time; both are exact to the microsecond. The result depends
//! only on the latest change of each id, so snapshots, replays, updates and deletes are
//! harmless. The sink publishes the board.

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

/// If the clock is behind the board by more than this, in microseconds, it was set back. For
/// smaller corrections, the board waits until the clock catches up.
pub const MAX_FALL_US: i64 = 1_000_000;

/// Settings of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSettings {
    /// Length of the window, in microseconds.
    pub window_us: i64,
    /// Maximum time that an event may be ahead of its record, in microseconds.
    pub skew_us: i64,
    pub score: Score,
}

/// Columns of an event that matter to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardEvent {
    pub content_id: Option<Uuid>,
    /// Microseconds since the epoch.
    pub event_ts: i64,
    pub duration_ms: Option<i32>,
}

/// Outcome of an applied change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The event is on the board.
    Counted,
    /// The event is ahead of the clock and will enter the board later.
    Waiting,
    /// The event has already left the window.
    TooOld,
    /// The event is further ahead of its record than the skew allows. It never counts.
    TooFarAhead,
    /// The event has no content id.
    NoContent,
    /// The event was deleted.
    Deleted,
}

impl Applied {
    /// Returns the stable name used in metrics.
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

/// An event that counts now or will count later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeptEvent {
    content: Uuid,
    event_ts: i64,
    /// Never negative.
    duration_ms: u32,
    /// Whether the event is on the board. Otherwise it is waiting.
    counted: bool,
}

/// The events of `as_of − window < event_ts ≤ as_of`, and the waiting events. No other events
/// are kept, so the memory is bounded by the events that arrive in one window plus the skew.
#[derive(Debug)]
pub struct Window {
    settings: WindowSettings,
    as_of_us: i64,
    events: HashMap<i64, KeptEvent>,
    /// When counted events leave. May contain outdated entries of events that changed.
    leaving: Schedule,
    /// When waiting events enter. May contain outdated entries as well.
    entering: Schedule,
    board: Board,
}

impl Window {
    /// Returns an empty board as of this time, in microseconds since the epoch. A board that is
    /// rebuilt from the log starts at the present, so that it skips events that have left the
    /// window.
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

    /// Applies the latest change of an event. `event` is `None` if the event was deleted.
    /// `record_time_us` is the time at which its record was appended.
    pub fn apply(&mut self, id: i64, event: Option<BoardEvent>, record_time_us: i64) -> Applied {
        let (outcome, kept) = self.classify(event, record_time_us);
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

    /// Returns true if the clock was set back to `now_us`. Some events that count at that time
    /// may already have left the window and exist only in the log. The board must then be
    /// rebuilt in a new window.
    #[must_use]
    pub fn is_clock_set_back(&self, now_us: i64) -> bool {
        self.as_of_us.saturating_sub(now_us) > MAX_FALL_US
    }

    /// Advances the clock; events leave and enter. Ignores an earlier time, because the board
    /// never goes back.
    pub fn advance(&mut self, as_of_us: i64) {
        self.as_of_us = self.as_of_us.max(as_of_us);
        while let Some((event_ts, id)) = self.entering.pop_due(self.as_of_us) {
            let is_waiting = |kept: &&mut KeptEvent| kept.event_ts == event_ts && !kept.counted;
            if let Some(kept) = self.events.get_mut(&id).filter(is_waiting) {
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

    /// Returns the time that the board reflects, in microseconds since the epoch.
    #[must_use]
    pub fn as_of_us(&self) -> i64 {
        self.as_of_us
    }

    /// Drains the content items whose scores changed since the last call, with their current
    /// scores, or `None` if a content item left the board. Drained scores count as published.
    /// If publishing them fails, the publisher must publish all [`Window::scores`].
    pub fn changed(&mut self) -> Vec<(Uuid, Option<i64>)> {
        self.board.changed()
    }

    /// Returns the complete board, unordered. To publish it instead of the differences, also
    /// drain [`Window::changed`].
    pub fn scores(&self) -> impl Iterator<Item = (Uuid, i64)> + '_ {
        self.board.scores()
    }

    /// Returns the number of content items on the board.
    #[must_use]
    pub fn cardinality(&self) -> usize {
        self.board.cardinality()
    }

    /// Returns the number of kept events: those on the board and those waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns true if no event is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns the latest event time that has left the window.
    fn edge(&self) -> i64 {
        self.as_of_us.saturating_sub(self.settings.window_us)
    }

    fn classify(
        &self,
        event: Option<BoardEvent>,
        record_time_us: i64,
    ) -> (Applied, Option<KeptEvent>) {
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
        let kept = KeptEvent {
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

    fn schedule(&mut self, id: i64, kept: KeptEvent) {
        let schedule = if kept.counted {
            &mut self.leaving
        } else {
            &mut self.entering
        };
        schedule.push(kept.event_ts, id);
    }

    /// Bounds the schedules to about twice the number of events, however often an event changes
    /// its time.
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
