//! Compares two streams of rows that are ordered by id. Pure.

use super::{
    findings::{Check, Difference},
    row::{COLUMNS, TextRow},
};

/// The rows that the two sides have for one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pair {
    /// Only the expected side has a row.
    Missing(TextRow),
    /// Only the found side has a row.
    Extra(TextRow),
    Both {
        expected: Box<TextRow>,
        found: Box<TextRow>,
    },
}

impl Pair {
    /// Returns the id that the rows share.
    pub(crate) fn id(&self) -> i64 {
        match self {
            Self::Missing(row) | Self::Extra(row) => row.id,
            Self::Both { expected, .. } => expected.id,
        }
    }

    /// Whether both sides have the same row.
    pub(crate) fn is_same(&self) -> bool {
        matches!(self, Self::Both { expected, found } if expected == found)
    }

    /// Returns the differences: one for each column that differs, or one for a row
    /// that only one side has.
    pub(crate) fn differences(&self) -> Vec<Difference> {
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

/// Pairs the rows of a range of ids. The expected rows are given at once, the found
/// rows one at a time.
#[derive(Debug)]
pub(crate) struct Merge {
    expected: std::iter::Peekable<std::vec::IntoIter<TextRow>>,
}

impl Merge {
    /// Takes the expected rows in the order of their ids.
    pub(crate) fn new(expected: Vec<TextRow>) -> Self {
        Self {
            expected: expected.into_iter().peekable(),
        }
    }

    /// Visits the pairs up to and including the pair of the found row.
    pub(crate) fn found(&mut self, found: TextRow, mut visit: impl FnMut(Pair)) {
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

    /// Visits the pairs after the last found row.
    pub(crate) fn finish(self, mut visit: impl FnMut(Pair)) {
        self.expected.for_each(|row| visit(Pair::Missing(row)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(id: i64, device: &str) -> TextRow {
        let mut cells: [Option<String>; COLUMNS.len()] = Default::default();
        cells[7] = Some(device.to_owned());
        TextRow { id, cells }
    }

    fn both(expected: TextRow, found: TextRow) -> Pair {
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
            TextRow {
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
