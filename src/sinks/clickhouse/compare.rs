//! The comparison itself: two streams of rows in the order of their ids, side
//! by side. Pure.

pub use super::COLUMNS;
use super::TextRow;
use crate::audit::findings::{Check, Difference};

/// One row: its id and its columns as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub cells: [Option<String>; COLUMNS.len()],
}

impl From<TextRow> for Row {
    fn from(row: TextRow) -> Self {
        Self {
            id: row.event_id,
            cells: [
                row.content_id,
                row.user_id,
                row.event_type,
                row.event_ts,
                row.duration_ms,
                row.engagement_seconds,
                row.engagement_pct,
                row.device,
                row.raw_payload,
                row.content_type,
                row.length_seconds,
            ],
        }
    }
}

/// What stands side by side for one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pair {
    /// Only expected.
    Missing(Row),
    /// Only found.
    Extra(Row),
    Both {
        expected: Box<Row>,
        found: Box<Row>,
    },
}

impl Pair {
    /// The id they share.
    #[must_use]
    pub fn id(&self) -> i64 {
        match self {
            Self::Missing(row) | Self::Extra(row) => row.id,
            Self::Both { expected, .. } => expected.id,
        }
    }

    /// Whether the sides are the same.
    #[must_use]
    pub fn is_same(&self) -> bool {
        matches!(self, Self::Both { expected, found } if expected == found)
    }

    /// The differences, one for each column that differs.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        match self {
            Self::Missing(row) => vec![Difference::missing(Check::Rows, &row.id, row)],
            Self::Extra(row) => vec![Difference::extra(Check::Rows, &row.id, row)],
            Self::Both { expected, found } => COLUMNS
                .iter()
                .zip(expected.cells.iter().zip(&found.cells))
                .filter(|(_, (expected, found))| expected != found)
                .map(|(column, (left, right))| {
                    let (left, right) = (left.clone(), right.clone());
                    Difference::of(Check::Rows, &expected.id, column, left, right)
                })
                .collect(),
        }
    }
}

impl std::fmt::Display for Row {
    /// `event_type=play, duration_ms=1200, …`: what is not null.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (column, cell) in COLUMNS.iter().zip(&self.cells) {
            if let Some(cell) = cell {
                write!(formatter, "{separator}{column}={cell}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// Puts the rows of two sides next to each other, one found row at a time;
/// the expected ones of a stretch of ids are given at once.
#[derive(Debug)]
pub struct Merge {
    expected: std::iter::Peekable<std::vec::IntoIter<Row>>,
}

impl Merge {
    /// Rows in the order of their ids.
    #[must_use]
    pub fn new(expected: Vec<Row>) -> Self {
        Self {
            expected: expected.into_iter().peekable(),
        }
    }

    /// The pairs up to the found row, itself the last.
    pub fn found(&mut self, found: Row, mut visit: impl FnMut(Pair)) {
        while let Some(expected) = self.expected.next_if(|row| row.id < found.id) {
            visit(Pair::Missing(expected));
        }
        match self.expected.next_if(|row| row.id == found.id) {
            Some(expected) => visit(Pair::Both {
                expected: Box::new(expected),
                found: Box::new(found),
            }),
            None => visit(Pair::Extra(found)),
        }
    }

    /// The pairs after the last found row.
    pub fn finish(self, mut visit: impl FnMut(Pair)) {
        self.expected.for_each(|row| visit(Pair::Missing(row)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(id: i64, device: &str) -> Row {
        let mut cells: [Option<String>; COLUMNS.len()] = Default::default();
        cells[7] = Some(device.to_owned());
        Row { id, cells }
    }

    fn both(expected: Row, found: Row) -> Pair {
        Pair::Both {
            expected: Box::new(expected),
            found: Box::new(found),
        }
    }

    fn pairs(expected: &[i64], found: &[i64]) -> Vec<(i64, char)> {
        let mut merge = Merge::new(expected.iter().map(|id| row(*id, "d")).collect());
        let mut seen = Vec::new();
        let mut visit = |pair: Pair| {
            let kind = match &pair {
                Pair::Missing(_) => '-',
                Pair::Extra(_) => '+',
                Pair::Both { .. } => '=',
            };
            seen.push((pair.id(), kind));
        };
        for id in found {
            merge.found(row(*id, "d"), &mut visit);
        }
        merge.finish(&mut visit);
        seen
    }

    #[test]
    fn both_sides_are_walked_to_their_ends() {
        assert_eq!(
            pairs(&[1, 2, 4, 7], &[0, 2, 3, 4]),
            [(0, '+'), (1, '-'), (2, '='), (3, '+'), (4, '='), (7, '-')]
        );
        assert_eq!(pairs(&[], &[5]), [(5, '+')]);
        assert_eq!(pairs(&[5], &[]), [(5, '-')]);
    }

    #[test]
    fn each_column_that_differs_is_a_difference() {
        for (place, column) in COLUMNS.iter().enumerate() {
            let expected = row(1, "x");
            let mut found = expected.clone();
            found.cells[place] = Some("other".to_owned());
            let pair = both(expected, found);
            assert!(!pair.is_same());
            let differences = pair.differences();
            assert_eq!(differences.len(), 1);
            assert_eq!(differences[0].what.as_deref(), Some(*column));
            assert_eq!(differences[0].found.as_deref(), Some("other"));
        }
    }

    #[test]
    fn a_null_is_not_an_empty_text() {
        let (expected, found) = (
            row(1, ""),
            Row {
                id: 1,
                cells: Default::default(),
            },
        );
        assert!(!both(expected, found).is_same());
    }

    proptest! {
        #[test]
        fn every_id_is_paired_once_and_rightly(
            expected in prop::collection::btree_set(0_i64..40, 0..30),
            found in prop::collection::btree_set(0_i64..40, 0..30),
        ) {
            let left: Vec<i64> = expected.iter().copied().collect();
            let right: Vec<i64> = found.iter().copied().collect();
            let wanted: Vec<(i64, char)> = expected
                .union(&found)
                .map(|id| match (expected.contains(id), found.contains(id)) {
                    (true, true) => (*id, '='),
                    (true, false) => (*id, '-'),
                    _ => (*id, '+'),
                })
                .collect();
            prop_assert_eq!(pairs(&left, &right), wanted);
        }
    }
}
