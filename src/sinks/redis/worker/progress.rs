//! How far one partition of the board's log is, and as of when that is all
//! there was.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::sinks::redis::reader::Reached;

/// Looks at the log's end that are kept until they are reached. A board that
/// is further behind has no use for more.
const MAX_AHEAD: usize = 64;

/// One partition.
#[derive(Debug)]
pub(super) struct Track {
    /// Before this, records were counted by an earlier term.
    pub counted_to: i64,
    /// The end when the lease was taken.
    pub goal: i64,
    pub next: i64,
    /// When the latest record that was read, or counted by an earlier term, was
    /// appended, in milliseconds since the epoch; none where that is not known.
    pub appended_ms: Option<i64>,
    /// Ends not reached yet, and when they were the end; oldest first.
    ahead: VecDeque<(Instant, i64)>,
    /// All that was in the log then is in.
    current_as_of: Option<Instant>,
}

impl Track {
    /// A partition read from `next`, with this end at this moment.
    pub fn new(counted_to: i64, next: i64, (at, end): (Instant, i64)) -> Self {
        let mut track = Self {
            counted_to,
            goal: end,
            next,
            appended_ms: None,
            ahead: VecDeque::new(),
            current_as_of: None,
        };
        track.looked(at, end);
        track
    }

    /// The end was this, at this moment or later.
    pub fn looked(&mut self, at: Instant, end: i64) {
        if self.ahead.len() < MAX_AHEAD {
            self.ahead.push_back((at, end));
        }
        self.reach();
    }

    /// Everything before `next` is in.
    pub fn advanced(&mut self, next: i64) {
        self.next = self.next.max(next);
        self.reach();
    }

    fn reach(&mut self) {
        while let Some((at, end)) = self.ahead.front()
            && *end <= self.next
        {
            self.current_as_of = Some(*at);
            self.ahead.pop_front();
        }
    }

    /// How long ago everything in the partition was known to be in.
    pub fn behind(&self) -> Duration {
        self.current_as_of
            .map_or(Duration::MAX, |instant| instant.elapsed())
    }

    /// What may be committed: never behind what an earlier term has counted.
    pub fn done(&self) -> Reached {
        Reached {
            next: self.next.max(self.counted_to),
            appended_ms: self.appended_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment so many seconds ago.
    fn ago(seconds: u64) -> Instant {
        Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .expect("the machine runs longer")
    }

    fn seconds(track: &Track) -> u64 {
        track.behind().as_secs()
    }

    #[test]
    fn a_partition_is_current_as_of_the_latest_end_it_has_reached() {
        let mut track = Track::new(0, 0, (ago(50), 5));
        assert_eq!(track.behind(), Duration::MAX);
        track.looked(ago(40), 10);
        track.looked(ago(30), 20);
        track.advanced(4);
        assert_eq!(track.behind(), Duration::MAX);
        track.advanced(5);
        assert_eq!(seconds(&track), 50);
        track.advanced(19);
        assert_eq!(seconds(&track), 40);
        track.advanced(25);
        assert_eq!(seconds(&track), 30);
        track.looked(ago(20), 25);
        assert_eq!(seconds(&track), 20);
    }

    #[test]
    fn without_a_look_it_grows_old_though_nothing_arrives() {
        let track = Track::new(0, 7, (ago(9), 7));
        assert_eq!(seconds(&track), 9);
    }

    #[test]
    fn what_was_counted_before_is_not_uncommitted() {
        let mut track = Track::new(100, 40, (ago(1), 200));
        assert_eq!(track.done().next, 100);
        track.advanced(90);
        assert_eq!(track.done().next, 100);
        track.advanced(150);
        assert_eq!(track.done().next, 150);
    }
}
