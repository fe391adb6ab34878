//! The times at which events must be checked again. Insertion is cheap. Changed events leave
//! outdated entries behind, which the caller must ignore.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::time::timestamp::MICROS_PER_SECOND;

/// Ids by due time: grouped by second for future seconds, in exact order for the current
/// second.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    future: BTreeMap<i64, Vec<(i64, i64)>>,
    current: BinaryHeap<Reverse<(i64, i64)>>,
    /// The latest second whose ids are in `current`.
    second: Option<i64>,
    len: usize,
}

impl Schedule {
    /// Adds an id that is due at this time, in microseconds.
    pub(super) fn push(&mut self, time_us: i64, id: i64) {
        let second = time_us.div_euclid(MICROS_PER_SECOND);
        self.len += 1;
        if self.second.is_some_and(|current| second <= current) {
            self.current.push(Reverse((time_us, id)));
        } else {
            self.future.entry(second).or_default().push((time_us, id));
        }
    }

    /// Removes and returns an id that is due by now, with its time.
    pub(super) fn pop_due(&mut self, now_us: i64) -> Option<(i64, i64)> {
        self.start_second(now_us.div_euclid(MICROS_PER_SECOND));
        let Reverse(next) = *self.current.peek()?;
        if next.0 > now_us {
            return None;
        }
        self.current.pop();
        self.len -= 1;
        Some(next)
    }

    /// Returns the number of entries, including outdated ones.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn start_second(&mut self, second: i64) {
        if self.second.is_some_and(|current| second <= current) {
            return;
        }
        self.second = Some(second);
        while let Some(entry) = self.future.first_entry() {
            if *entry.key() > second {
                break;
            }
            self.current.extend(entry.remove().into_iter().map(Reverse));
        }
    }
}
