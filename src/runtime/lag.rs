//! Estimates the lag of a sink in records. Kafka only reports offsets, and not
//! every offset is a record: each transaction ends with a marker, and compaction
//! leaves gaps. The share of offsets that are records is measured on the offsets
//! that were already read.

/// Number of recent offsets that determine the share. Older offsets count less
/// and less.
const MEMORY: u64 = 1 << 16;

/// The share of a log's offsets that are records.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Density {
    records: u64,
    offsets: u64,
}

/// Lag of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag {
    pub records: u64,
    /// Whether `records` is an estimate, because some offsets are not records.
    pub is_estimate: bool,
}

impl Density {
    /// Records that `offsets` offsets contained `records` records.
    pub fn passed(&mut self, records: u64, offsets: u64) {
        // There are never more records than offsets, even if the two numbers were
        // counted at different times.
        self.records += records.min(offsets);
        self.offsets += offsets;
        if self.offsets > MEMORY {
            self.records /= 2;
            self.offsets /= 2;
        }
    }

    /// Returns the number of records among `offsets` unread offsets. It is 0 only
    /// if `offsets` is 0.
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
        // Each transaction has one record and one marker.
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
    fn recent_offsets_count_more() {
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
        fn the_lag_is_zero_only_if_no_offset_is_left(
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
