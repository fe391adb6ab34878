//! Adapts the size of re-enrichment statements: each should take about a second, and is
//! smaller after one that was too slow. Pure arithmetic.

use std::time::Duration;

/// Target duration of a statement. New events of the partition wait this long.
const TARGET: Duration = Duration::from_secs(1);

/// Minimum number of rows per statement. A single row can be large.
const MIN_ROWS: usize = 1;

/// Maximum number of contents per lookup. Also the number of the first lookup.
const MAX_CONTENTS: usize = 1000;

/// Number of windows into which all ids are divided if a lookup of one content is too
/// slow.
const INITIAL_WINDOWS: u64 = 16;

/// Number of rows that the next statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowLimit {
    rows: usize,
    max_rows: usize,
}

impl RowLimit {
    /// Returns a limit that never exceeds `max_rows`.
    pub(super) fn new(max_rows: usize) -> Self {
        Self {
            rows: max_rows.div_ceil(5),
            max_rows,
        }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(super) fn max_rows(self) -> usize {
        self.max_rows
    }

    /// Adapts the limit to the duration of a statement with the full number of rows.
    pub(super) fn adapt(&mut self, elapsed: Duration) {
        if elapsed < TARGET / 2 {
            self.rows = (self.rows * 2).min(self.max_rows);
        } else if elapsed > TARGET * 2 {
            self.divide(2);
        }
    }

    /// Reduces the limit after a statement was aborted.
    pub(super) fn reduce_after_timeout(&mut self) {
        self.divide(4);
    }

    fn divide(&mut self, divisor: usize) {
        self.rows = (self.rows / divisor).max(MIN_ROWS.min(self.max_rows));
    }
}

/// The event ids of the next lookup: all ids, or one window after the other if that was
/// too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IdWindow {
    /// Ids up to this one have been looked up.
    after: Option<i64>,
    /// Number of ids in a window. `None` means all ids.
    span: Option<u64>,
    /// The highest existing id. Used only if `span` is set.
    last: i64,
}

impl IdWindow {
    pub(super) fn after(self) -> Option<i64> {
        self.after
    }

    /// Returns the last id of the window, or `None` if the window is unbounded.
    pub(super) fn until(self) -> Option<i64> {
        let span = self.span?;
        let until = self.after?.saturating_add_unsigned(span);
        (until < self.last).then_some(until)
    }

    /// Continues after this id, up to which the lookup was complete.
    pub(super) fn skip_to(&mut self, id: i64) {
        self.after = Some(id);
    }

    /// Advances to the next window after a complete lookup. Returns false if there is
    /// none.
    pub(super) fn advance(&mut self) -> bool {
        let Some(until) = self.until() else {
            return false;
        };
        self.after = Some(until);
        self.span = self.span.map(|span| span.saturating_mul(2));
        true
    }

    /// Narrows the window after a lookup that was too slow. `bounds` are the lowest and
    /// the highest existing id.
    pub(super) fn narrow(&mut self, bounds: (i64, i64)) {
        let (first, last) = bounds;
        self.last = last;
        let after = *self.after.get_or_insert(first.saturating_sub(1));
        let span = match self.span {
            None => u64::try_from(last.saturating_sub(after)).unwrap_or(0) / INITIAL_WINDOWS,
            Some(span) => span / 4,
        };
        self.span = Some(span.max(1));
    }
}

/// Number of contents of the next lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentLimit(usize);

impl Default for ContentLimit {
    fn default() -> Self {
        Self(MAX_CONTENTS)
    }
}

impl ContentLimit {
    pub(super) fn contents(self) -> usize {
        self.0
    }

    pub(super) fn increase(&mut self) {
        self.0 = (self.0 * 2).min(MAX_CONTENTS);
    }

    pub(super) fn reduce(&mut self) {
        self.0 = (self.0 / 4).max(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_row_limit_grows_to_the_maximum_and_shrinks_after_slow_statements() {
        let mut limit = RowLimit::new(50_000);
        assert_eq!(limit.rows(), 10_000);
        for _ in 0..9 {
            limit.adapt(Duration::from_millis(10));
        }
        assert_eq!(limit.rows(), 50_000);
        limit.adapt(Duration::from_secs(1));
        assert_eq!(limit.rows(), 50_000);
        limit.adapt(Duration::from_secs(3));
        assert_eq!(limit.rows(), 25_000);
        for _ in 0..9 {
            limit.reduce_after_timeout();
        }
        assert_eq!(limit.rows(), 1);
    }

    #[test]
    fn the_row_limit_respects_a_small_maximum() {
        let mut limit = RowLimit::new(3);
        assert_eq!(limit.rows(), 1);
        limit.adapt(Duration::ZERO);
        limit.adapt(Duration::ZERO);
        limit.adapt(Duration::ZERO);
        assert_eq!(limit.rows(), 3);
        limit.reduce_after_timeout();
        assert_eq!(limit.rows(), 1);
    }

    proptest! {
        /// Regardless of which lookups are too slow, each id is in exactly one window, and
        /// the windows end.
        #[test]
        fn windows_cover_every_id(
            first in -50_i64..50,
            ids in 0_i64..2000,
            slow in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let last = first + ids;
            let mut window = IdWindow::default();
            let mut next = first;
            let mut slow = slow.into_iter();
            for _ in 0..5000 {
                if slow.next().unwrap_or(false) {
                    window.narrow((first, last));
                    continue;
                }
                let from = window.after().map_or(first, |after| after + 1);
                prop_assert_eq!(from, next);
                let until = window.until().unwrap_or(last);
                prop_assert!(until >= from - 1 && until <= last);
                next = until + 1;
                if !window.advance() {
                    break;
                }
            }
            prop_assert_eq!(next, last + 1);
        }
    }

    #[test]
    fn the_last_window_is_unbounded() {
        let mut window = IdWindow::default();
        assert_eq!((window.after(), window.until()), (None, None));
        window.skip_to(i64::MAX - 5);
        window.narrow((0, i64::MAX));
        assert_eq!(window.until(), Some(i64::MAX - 4));
        window.skip_to(i64::MAX - 1);
        assert_eq!(window.until(), None);
        assert!(!window.advance());
    }
}
