//! The latest records among those read, within a limit on memory.

use std::collections::BTreeMap;

use crate::kafka::{Seen, Stretch};

/// Maximum number of new records that one call returns. The next call returns
/// the rest.
const MAX_NEW: usize = 1_000;

/// Maximum size of the new records that one call returns, in bytes.
const MAX_NEW_BYTES: usize = 32 * 1024 * 1024;

/// Records ordered by timestamp, then by partition and offset.
#[derive(Default)]
pub(super) struct Latest {
    records: BTreeMap<(i64, i32, i64), Seen>,
    bytes: usize,
}

impl Latest {
    /// Returns the records, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &Seen> {
        self.records.values()
    }

    pub(super) fn add(&mut self, seen: Seen) {
        self.bytes += size(&seen);
        let place = (seen.timestamp_ms, seen.partition, seen.offset);
        self.records.insert(place, seen);
    }

    /// Removes all but the latest `count` records.
    pub(super) fn keep(&mut self, count: usize) {
        while self.records.len() > count
            && let Some((_, seen)) = self.records.pop_first()
        {
            self.bytes -= size(&seen);
        }
    }

    /// Returns true if the records reach one of the limits.
    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= MAX_NEW || self.bytes >= MAX_NEW_BYTES
    }

    /// Returns the offset of each stretch at which the next call continues.
    pub(super) fn next_after(&self, stretches: &[Stretch]) -> Vec<i64> {
        let next = |stretch: &Stretch| {
            let of_partition = self
                .records
                .keys()
                .filter(|(_, partition, _)| *partition == stretch.partition);
            let last = of_partition.map(|(_, _, offset)| *offset).max();
            last.map_or(stretch.from, |last| last + 1)
        };
        stretches.iter().map(next).collect()
    }
}

fn size(seen: &Seen) -> usize {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    length(&seen.key) + length(&seen.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(partition: i32, offset: i64, value: usize) -> Seen {
        Seen {
            partition,
            offset,
            timestamp_ms: offset,
            key: None,
            value: Some(vec![0; value]),
            headers: Vec::new(),
        }
    }

    #[test]
    fn only_the_latest_records_are_kept_and_the_rest_is_not_lost() {
        let mut latest = Latest::default();
        for offset in 0..100 {
            latest.add(seen(0, offset, 10));
            latest.keep(3);
            assert!(latest.records.len() <= 3 && latest.bytes <= 30);
        }
        let offsets: Vec<i64> = latest.records.values().map(|seen| seen.offset).collect();
        assert_eq!(offsets, [97, 98, 99]);
        let stretch = |partition, from| Stretch {
            partition,
            from,
            until: Some(1_000),
        };
        assert_eq!(latest.next_after(&[stretch(0, 5), stretch(1, 7)]), [100, 7]);
        assert!(!latest.is_full());
        latest.add(seen(1, 7, MAX_NEW_BYTES));
        assert!(latest.is_full());
    }
}
