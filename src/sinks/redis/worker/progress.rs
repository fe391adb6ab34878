//! Read progress of one partition of the board's log, and its staleness.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::sinks::redis::reader::CommitPosition;

/// Maximum number of polled end offsets that are kept until they are reached. A
/// board that is further behind does not need more.
const MAX_PENDING_ENDS: usize = 64;

/// Progress of one partition.
#[derive(Debug)]
pub(super) struct PartitionProgress {
    /// Earlier sessions have counted all records before this offset.
    pub counted_to: i64,
    /// End offset when the lease was acquired.
    pub goal: i64,
    pub next: i64,
    /// Append time of the latest record that was read, or was counted by an
    /// earlier session, in milliseconds since the epoch. `None` if unknown.
    pub appended_ms: Option<i64>,
    /// Polled end offsets that are not reached yet, with the time of the poll;
    /// oldest first.
    pending_ends: VecDeque<(Instant, i64)>,
    /// The board includes every record that the log held at this instant.
    current_as_of: Option<Instant>,
}

impl PartitionProgress {
    /// Returns the progress of a partition that is read from `next` on and that
    /// had the end offset `end` at or after `time`.
    pub fn new(counted_to: i64, next: i64, (time, end): (Instant, i64)) -> Self {
        let mut progress = Self {
            counted_to,
            goal: end,
            next,
            appended_ms: None,
            pending_ends: VecDeque::new(),
            current_as_of: None,
        };
        progress.set_end(time, end);
        progress
    }

    /// Records the end offset of the partition at or after `time`.
    pub fn set_end(&mut self, time: Instant, end: i64) {
        if self.pending_ends.len() < MAX_PENDING_ENDS {
            self.pending_ends.push_back((time, end));
        }
        self.update_current_as_of();
    }

    /// Records that all records before `next` have been applied.
    pub fn advance(&mut self, next: i64) {
        self.next = self.next.max(next);
        self.update_current_as_of();
    }

    fn update_current_as_of(&mut self) {
        while let Some((time, end)) = self.pending_ends.front()
            && *end <= self.next
        {
            self.current_as_of = Some(*time);
            self.pending_ends.pop_front();
        }
    }

    /// Returns the staleness: the board includes every record that the partition
    /// held this long ago.
    pub fn staleness(&self) -> Duration {
        self.current_as_of
            .map_or(Duration::MAX, |instant| instant.elapsed())
    }

    /// Returns the position that is safe to commit. It is never before the
    /// records that earlier sessions have counted.
    pub fn commit_position(&self) -> CommitPosition {
        CommitPosition {
            next: self.next.max(self.counted_to),
            appended_ms: self.appended_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the instant this many seconds ago.
    fn ago(seconds: u64) -> Instant {
        Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .expect("the machine has been up for longer")
    }

    fn seconds(progress: &PartitionProgress) -> u64 {
        progress.staleness().as_secs()
    }

    #[test]
    fn a_partition_is_current_as_of_the_latest_end_it_has_reached() {
        let mut progress = PartitionProgress::new(0, 0, (ago(50), 5));
        assert_eq!(progress.staleness(), Duration::MAX);
        progress.set_end(ago(40), 10);
        progress.set_end(ago(30), 20);
        progress.advance(4);
        assert_eq!(progress.staleness(), Duration::MAX);
        progress.advance(5);
        assert_eq!(seconds(&progress), 50);
        progress.advance(19);
        assert_eq!(seconds(&progress), 40);
        progress.advance(25);
        assert_eq!(seconds(&progress), 30);
        progress.set_end(ago(20), 25);
        assert_eq!(seconds(&progress), 20);
    }

    #[test]
    fn a_partition_grows_stale_without_polls_even_if_no_record_arrives() {
        let progress = PartitionProgress::new(0, 7, (ago(9), 7));
        assert_eq!(seconds(&progress), 9);
    }

    #[test]
    fn the_commit_position_never_falls_behind_the_counted_records() {
        let mut progress = PartitionProgress::new(100, 40, (ago(1), 200));
        assert_eq!(progress.commit_position().next, 100);
        progress.advance(90);
        assert_eq!(progress.commit_position().next, 100);
        progress.advance(150);
        assert_eq!(progress.commit_position().next, 150);
    }
}
