//! When an event has to be looked at again: cheap to fill, and in no need of
//! being told that an event changed, since it is asked what was due, not what
//! still is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::timestamp::MICROS_PER_SECOND;

/// Ids by the time they fall due: by second while that is ahead, in exact
/// order in the second that has begun.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    ahead: BTreeMap<i64, Vec<(i64, i64)>>,
    begun: BinaryHeap<Reverse<(i64, i64)>>,
    /// The last second whose ids are in `begun`.
    second: Option<i64>,
    len: usize,
}

impl Schedule {
    /// The id falls due at this time, in microseconds.
    pub(super) fn push(&mut self, time_us: i64, id: i64) {
        let second = time_us.div_euclid(MICROS_PER_SECOND);
        self.len += 1;
        if self.second.is_some_and(|begun| second <= begun) {
            self.begun.push(Reverse((time_us, id)));
        } else {
            self.ahead.entry(second).or_default().push((time_us, id));
        }
    }

    /// Takes an id that fell due by now, with its time.
    pub(super) fn pop_due(&mut self, now_us: i64) -> Option<(i64, i64)> {
        self.begin(now_us.div_euclid(MICROS_PER_SECOND));
        let Reverse(next) = *self.begun.peek()?;
        if next.0 > now_us {
            return None;
        }
        self.begun.pop();
        self.len -= 1;
        Some(next)
    }

    /// How many entries there are, of events that changed since too.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn begin(&mut self, second: i64) {
        if self.second.is_some_and(|begun| second <= begun) {
            return;
        }
        self.second = Some(second);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > second {
                break;
            }
            self.begun.extend(entry.remove().into_iter().map(Reverse));
        }
    }
}
