//! One partition's part of a replay, with its progress.

use serde::{Deserialize, Serialize};

/// One partition's part of a replay. Plain data that is stored between runs. To resume
/// a replay, pass the last reported state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub partition: i32,
    pub from: i64,
    /// End offset, one past the last offset of the part.
    pub until: i64,
    /// Next offset: all earlier records are stored.
    pub next: i64,
    /// Commit metadata at the start of the part, which contains the enrichment progress.
    pub metadata: Option<String>,
    /// Whether all records are stored and no work is pending.
    pub done: bool,
}

impl Part {
    /// Creates a part that has not been started.
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

    /// Returns the number of offsets in the part, which is at least the number of
    /// records.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }

    /// Returns true if the part has no offsets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of offsets that were already replayed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        u64::try_from(self.next.min(self.until) - self.from).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_is_done_from_the_start() {
        assert!(Part::new(0, 7, 7).done);
        let mut part = Part::new(0, 3, 10);
        assert_eq!((part.done, part.len(), part.passed()), (false, 7, 0));
        // A transaction marker moves the position past the end.
        part.next = 12;
        assert_eq!(part.passed(), 7);
    }

    #[test]
    fn the_stored_format_of_a_part_is_stable() {
        let part = Part::new(1, 2, 9);
        let text = serde_json::to_string(&part).expect("plain data");
        assert_eq!(
            text,
            r#"{"partition":1,"from":2,"until":9,"next":2,"metadata":null,"done":false}"#
        );
    }
}
