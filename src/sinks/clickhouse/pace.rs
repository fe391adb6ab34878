//! How much one statement of a re-enrichment takes on: as much as about a
//! second's work, and less after one that was too slow. Pure arithmetic.

use std::time::Duration;

/// What a statement should take: new facts of the partition wait so long.
const TARGET: Duration = Duration::from_secs(1);

/// A single row can be large.
const FEWEST: usize = 1;

/// Contents of the first lookup, and of any other at most.
const MOST_CONTENTS: usize = 1000;

/// Into so many windows the ids are cut where a lookup of one content is too
/// slow.
const FIRST_WINDOWS: u64 = 16;

/// How many rows the next statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    rows: usize,
    most: usize,
}

impl Pace {
    /// `most` is never exceeded.
    pub(super) fn new(most: usize) -> Self {
        Self {
            rows: most.div_ceil(5),
            most,
        }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(super) fn most(self) -> usize {
        self.most
    }

    /// A statement of the full size was done.
    pub(super) fn took(&mut self, elapsed: Duration) {
        if elapsed < TARGET / 2 {
            self.rows = (self.rows * 2).min(self.most);
        } else if elapsed > TARGET * 2 {
            self.slower(2);
        }
    }

    /// A statement was given up.
    pub(super) fn too_slow(&mut self) {
        self.slower(4);
    }

    fn slower(&mut self, factor: usize) {
        self.rows = (self.rows / factor).max(FEWEST.min(self.most));
    }
}

/// Which ids the next lookup of a content looks at. All at once, as long as
/// that is not too slow; else one window after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Window {
    /// What is up to this id is looked up.
    after: Option<i64>,
    /// Ids of one window; none where all are looked at.
    span: Option<u64>,
    /// The highest id there is, where that counts.
    last: i64,
}

impl Window {
    pub(super) fn after(self) -> Option<i64> {
        self.after
    }

    /// The last id of the window; none where it is open.
    pub(super) fn until(self) -> Option<i64> {
        let span = self.span?;
        let until = self.after?.saturating_add_unsigned(span);
        (until < self.last).then_some(until)
    }

    /// Only some were found, up to this id.
    pub(super) fn found_up_to(&mut self, id: i64) {
        self.after = Some(id);
    }

    /// Everything in the window was found; returns whether there is another.
    pub(super) fn finished(&mut self) -> bool {
        let Some(until) = self.until() else {
            return false;
        };
        self.after = Some(until);
        self.span = self.span.map(|span| span.saturating_mul(2));
        true
    }

    /// The lookup was too slow; these are the lowest and the highest id.
    pub(super) fn too_slow(&mut self, bounds: (i64, i64)) {
        let (first, last) = bounds;
        self.last = last;
        let after = *self.after.get_or_insert(first.saturating_sub(1));
        let span = match self.span {
            None => u64::try_from(last.saturating_sub(after)).unwrap_or(0) / FIRST_WINDOWS,
            Some(span) => span / 4,
        };
        self.span = Some(span.max(1));
    }
}

/// How many contents the next lookup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Breadth(usize);

impl Default for Breadth {
    fn default() -> Self {
        Self(MOST_CONTENTS)
    }
}

impl Breadth {
    pub(super) fn contents(self) -> usize {
        self.0
    }

    pub(super) fn found(&mut self) {
        self.0 = (self.0 * 2).min(MOST_CONTENTS);
    }

    pub(super) fn too_slow(&mut self) {
        self.0 = (self.0 / 4).max(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pace_goes_up_to_the_most_and_comes_down_after_what_was_too_slow() {
        let mut pace = Pace::new(50_000);
        assert_eq!(pace.rows(), 10_000);
        for _ in 0..9 {
            pace.took(Duration::from_millis(10));
        }
        assert_eq!(pace.rows(), 50_000);
        pace.took(Duration::from_secs(1));
        assert_eq!(pace.rows(), 50_000);
        pace.took(Duration::from_secs(3));
        assert_eq!(pace.rows(), 25_000);
        for _ in 0..9 {
            pace.too_slow();
        }
        assert_eq!(pace.rows(), 1);
    }

    #[test]
    fn a_pace_keeps_to_a_small_limit() {
        let mut pace = Pace::new(3);
        assert_eq!(pace.rows(), 1);
        pace.took(Duration::ZERO);
        pace.took(Duration::ZERO);
        pace.took(Duration::ZERO);
        assert_eq!(pace.rows(), 3);
        pace.too_slow();
        assert_eq!(pace.rows(), 1);
    }

    proptest! {
        /// Whatever is too slow when: each id is in one window, and they end.
        #[test]
        fn windows_leave_no_id_out(
            first in -50_i64..50, ids in 0_i64..2000, slow in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let last = first + ids;
            let mut window = Window::default();
            let mut next = first;
            let mut slow = slow.into_iter();
            for _ in 0..5000 {
                if slow.next().unwrap_or(false) {
                    window.too_slow((first, last));
                    continue;
                }
                let from = window.after().map_or(first, |after| after + 1);
                prop_assert_eq!(from, next);
                let until = window.until().unwrap_or(last);
                prop_assert!(until >= from - 1 && until <= last);
                next = until + 1;
                if !window.finished() {
                    break;
                }
            }
            prop_assert_eq!(next, last + 1);
        }
    }

    #[test]
    fn a_window_at_the_end_of_all_ids_is_open() {
        let mut window = Window::default();
        assert_eq!((window.after(), window.until()), (None, None));
        window.found_up_to(i64::MAX - 5);
        window.too_slow((0, i64::MAX));
        assert_eq!(window.until(), Some(i64::MAX - 4));
        window.found_up_to(i64::MAX - 1);
        assert_eq!(window.until(), None);
        assert!(!window.finished());
    }
}
