//! How many records a sink is behind. The log only tells offsets, and not every
//! offset is a record: each transaction ends with a marker, and compaction leaves
//! gaps. What share of them are records is learned from those that were read.

/// Offsets that the share is learned from: older ones count ever less.
const MEMORY: u64 = 1 << 16;

/// The share of a log's offsets that are records.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Density {
    records: u64,
    offsets: u64,
}

/// How far behind a sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag {
    pub records: u64,
    /// Whether it is computed from offsets, of which some are no records.
    pub is_estimate: bool,
}

impl Density {
    /// So many records were among so many offsets.
    pub fn passed(&mut self, records: u64, offsets: u64) {
        // A record has an offset, whatever was counted when.
        self.records += records.min(offsets);
        self.offsets += offsets;
        if self.offsets > MEMORY {
            self.records /= 2;
            self.offsets /= 2;
        }
    }

    /// The records among offsets that were not read yet: none only where there
    /// are no offsets left.
    pub fn lag(self, offsets: u64) -> Lag {
        let is_estimate = offsets > 0 && self.records < self.offsets;
        let records = if is_estimate {
            let share = u128::from(offsets) * u128::from(self.records) / u128::from(self.offsets);
            u64::try_from(share).unwrap_or(offsets).max(1)
        } else {
            offsets
        };
        Lag {
            records,
            is_estimate,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lag(records: u64, is_estimate: bool) -> Lag {
        Lag {
            records,
            is_estimate,
        }
    }

    #[test]
    fn markers_are_not_counted() {
        let mut density = Density::default();
        assert_eq!(density.lag(10), lag(10, false));
        // One record a transaction, each with its marker.
        density.passed(50, 100);
        assert_eq!(density.lag(2_000), lag(1_000, true));
        assert_eq!(density.lag(1), lag(1, true));
        assert_eq!(density.lag(0), lag(0, false));
    }

    #[test]
    fn a_log_without_markers_is_counted_exactly() {
        let mut density = Density::default();
        density.passed(100, 100);
        assert_eq!(density.lag(7), lag(7, false));
    }

    #[test]
    fn what_was_read_lately_counts_more() {
        let mut density = Density::default();
        density.passed(MEMORY, MEMORY);
        for _ in 0..40 {
            density.passed(MEMORY / 20, MEMORY / 10);
        }
        let Lag { records, .. } = density.lag(1_000);
        assert!((490..560).contains(&records), "{records}");
    }

    proptest! {
        #[test]
        fn nothing_is_called_caught_up_that_is_not(
            passed in prop::collection::vec((0..1_000_000_u64, 0..1_000_000_u64), 0..20),
            offsets in 0..1_000_000_u64,
        ) {
            let mut density = Density::default();
            for (records, offsets) in passed {
                density.passed(records, offsets);
            }
            let lag = density.lag(offsets);
            prop_assert_eq!(lag.records == 0, offsets == 0);
            prop_assert!(lag.records <= offsets);
        }
    }
}
