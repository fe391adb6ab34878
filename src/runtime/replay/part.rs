//! One partition's part of a replay, and how far it is.

use serde::{Deserialize, Serialize};

/// One partition's part of a replay. Plain data that is stored between runs: to
/// resume a replay, pass the last state it reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset.
    pub until: i64,
    /// Everything before this is stored.
    pub next: i64,
    /// How far what is stored was enriched when the part was begun.
    pub metadata: Option<String>,
    /// All of it is stored, and nothing is owed.
    pub done: bool,
}

impl Part {
    /// A part that has not begun.
    #[must_use]
    pub fn new(partition: i32, from: i64, until: i64) -> Self {
        Self {
            partition,
            from,
            until,
            next: from,
            metadata: None,
            done: from >= until,
        }
    }

    /// Offsets in it: at least as many as there are records.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of those, how many are behind it.
    #[must_use]
    pub fn passed(&self) -> u64 {
        u64::try_from(self.next.min(self.until) - self.from).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_is_done_before_it_begins() {
        assert!(Part::new(0, 7, 7).done);
        let mut part = Part::new(0, 3, 10);
        assert_eq!((part.done, part.len(), part.passed()), (false, 7, 0));
        // A position past the end is that of a transaction's marker.
        part.next = 12;
        assert_eq!(part.passed(), 7);
    }

    #[test]
    fn what_a_part_is_kept_as_stays_the_same_for_ever() {
        let part = Part::new(1, 2, 9);
        let text = serde_json::to_string(&part).expect("plain data");
        assert_eq!(
            text,
            r#"{"partition":1,"from":2,"until":9,"next":2,"metadata":null,"done":false}"#
        );
    }
}
