//! The forms in which a row is compared: its columns as text, the sum of a range
//! of rows, and the record that a row comes from.

use std::fmt;

/// Texts of more bytes than this are compared by their MD5.
pub(crate) const MAX_TEXT: usize = 1024;

/// The prefix of a text's MD5. A text that has this prefix itself is compared by
/// its MD5 too, so it cannot be mistaken for the MD5 of another text.
pub(crate) const DIGEST: &str = "md5:";

/// The columns of [`TextRow`], in its order.
pub(crate) const COLUMNS: [&str; 11] = [
    "content_id",
    "user_id",
    "event_type",
    "event_ts",
    "duration_ms",
    "engagement_seconds",
    "engagement_pct",
    "device",
    "raw_payload",
    "content_type",
    "length_seconds",
];

/// An enriched row: its id and its other columns as text, without `processed_at`.
/// Decimals have all their digits and times are UTC to the microsecond. A text
/// longer than [`MAX_TEXT`] is replaced by [`DIGEST`] and its MD5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextRow {
    pub(crate) id: i64,
    /// In the order of [`COLUMNS`].
    pub(crate) cells: [Option<String>; COLUMNS.len()],
}

/// The sum of the rows of a range of ids. Ranges with equal sums hold equal rows.
///
/// Each row is written as one text: its id, then for each of [`COLUMNS`] a comma
/// and either the length in bytes, a colon and the value, or `-` for a null. The
/// digest is the sum of the first 60 bits of the MD5s of these texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSum {
    pub(crate) rows: u64,
    pub(crate) digest: String,
}

/// The record that a stored row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowOrigin {
    pub(crate) event_id: i64,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The offset that the version of the row was made from. It equals `offset`,
    /// unless the row is corrupt.
    pub(crate) version_offset: i64,
}

impl TextRow {
    /// Returns the value of a column, or `None` if it is null or not among [`COLUMNS`].
    pub(crate) fn cell(&self, column: &str) -> Option<&str> {
        let place = COLUMNS.iter().position(|name| *name == column)?;
        self.cells[place].as_deref()
    }
}

impl fmt::Display for TextRow {
    /// Writes the columns that are not null: `event_type=play, duration_ms=1200, …`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_found_by_its_column() {
        let mut row = TextRow {
            id: 7,
            cells: Default::default(),
        };
        for (place, column) in COLUMNS.iter().enumerate() {
            assert_eq!(row.cell(column), None);
            row.cells[place] = Some(place.to_string());
            assert_eq!(row.cell(column), Some(place.to_string().as_str()));
        }
        assert_eq!(row.cell("processed_at"), None);
    }
}
