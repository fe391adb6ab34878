//! The columns of one row, each parsed as its expected type.
//!
//! Also replaces placeholders: the connector writes them in place of unchanged values that
//! Postgres stores out of line.

use std::borrow::Cow;

use uuid::Uuid;

use super::cell::{Cell, Cells, ColumnSet, Part, ReadCells};
use super::document;
use super::envelope;
use super::reject::{Reject, RejectCode, Shape};
use super::schema::unit_of;
use super::unavailable::Unavailable;
use crate::{text::escape::excerpt, time::timestamp};

const INTEGER: &str = "a 32-bit integer";

/// 2^63: numbers with at least this absolute value do not fit a 64-bit integer column.
const BEYOND_64_BITS: f64 = 9_223_372_036_854_775_808.0;

/// The columns of one `after`, each to be taken as its expected type.
#[derive(Debug)]
pub struct Columns<'a, 'k> {
    cells: Cells<'a>,
    envelope: &'a str,
    before: Option<&'a str>,
    schema: Option<&'a str>,
    /// Columns whose value was taken from `before`.
    restored: ColumnSet,
    /// `Some` only for an update. Other records contain all values.
    placeholders: Option<Placeholders<'k>>,
}

/// Context for recognising a value that the connector did not have.
#[derive(Debug)]
pub(super) struct Placeholders<'k> {
    pub known: &'k Unavailable,
    pub partition: i32,
    pub offset: i64,
    pub never_null: ColumnSet,
}

impl<'a, 'k> Columns<'a, 'k> {
    /// Returns the columns of `after` from an envelope with this text, `before` and schema.
    pub(super) fn new(
        cells: Cells<'a>,
        envelope: &'a str,
        before: Option<&'a str>,
        schema: Option<&'a str>,
        placeholders: Option<Placeholders<'k>>,
    ) -> Self {
        Self {
            cells,
            envelope,
            before,
            schema,
            restored: ColumnSet::NONE,
            placeholders,
        }
    }

    /// Takes the value of a column of variable length. A placeholder is replaced by the value
    /// in `before`, unless the placeholder text is itself the stored value.
    fn available(&mut self, column: usize) -> Result<Cell<'a>, Reject> {
        let cell = self.cells.take(column);
        let Some(placeholders) = &self.placeholders else {
            return Ok(cell);
        };
        if !matches!(&cell, Cell::Text(text) if placeholders.include(text)) {
            return Ok(cell);
        }
        let unavailable = || {
            let name = self.name(column);
            let detail = format!(
                "column {name} did not change and is not in before: the table needs \
                 REPLICA IDENTITY FULL"
            );
            Reject::new(RejectCode::UnavailableValue, detail)
        };
        let before = self.before.ok_or_else(unavailable)?;
        let mut old = read_row(before, ReadCells::all(self.cells.names))?;
        match old.take(column) {
            // `before` never contains a placeholder for an unavailable value.
            Cell::Text(text) if matches!(&cell, Cell::Text(current) if *current == text) => {
                Ok(cell)
            }
            // A value that is stored out of line is not null, so this column has changed.
            // However, an old row that contains only the key has null in all other columns.
            Cell::Null if old.is_complete(placeholders.never_null) => Ok(cell),
            Cell::Null | Cell::Missing => Err(unavailable()),
            value => {
                self.restored = self.restored.with(column);
                Ok(value)
            }
        }
    }

    /// Takes a text, or null.
    pub(crate) fn text(&mut self, column: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.available(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => Err(self.wrong_type(column, "text", &other)),
        }
    }

    /// Takes a text that is never null.
    pub(crate) fn required_text(&mut self, column: usize) -> Result<Cow<'a, str>, Reject> {
        self.text(column)?
            .ok_or_else(|| self.unexpected_null(column))
    }

    /// Takes the text of a JSON document, or null. The connector writes a string. If the
    /// document is a JSON value, its exact text is kept.
    pub(crate) fn json(&mut self, column: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.available(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => match self.raw_text(column) {
                Some(text) => Ok(Some(Cow::Borrowed(text))),
                None => Err(self.wrong_type(column, "JSON", &other)),
            },
        }
    }

    /// Returns the exact text of a column's value.
    fn raw_text(&self, column: usize) -> Option<&'a str> {
        let row = if self.restored.has(column) {
            self.before
        } else {
            document::member(self.envelope, "after")
        };
        document::member(row?, self.name(column))
    }

    /// Takes a 32-bit integer, or null.
    pub(crate) fn integer(&mut self, column: usize) -> Result<Option<i32>, Reject> {
        let cell = self.cells.take(column);
        match cell {
            Cell::Null => Ok(None),
            Cell::Integer(value) => match i32::try_from(value) {
                Ok(value) => Ok(Some(value)),
                // The type is correct, but the value is out of range.
                Err(_) => Err(self.bad_type(column, INTEGER, &cell)),
            },
            // The number exceeds every integer type of Postgres, so only this value is bad.
            Cell::Number(value) if value.abs() >= BEYOND_64_BITS => {
                Err(self.bad_type(column, INTEGER, &cell))
            }
            other => Err(self.wrong_type(column, INTEGER, &other)),
        }
    }

    /// Takes a UUID, or null.
    pub(crate) fn uuid(&mut self, column: usize) -> Result<Option<Uuid>, Reject> {
        match self.cells.take(column) {
            Cell::Null => Ok(None),
            cell => parse_uuid(&cell).map(Some).ok_or_else(|| {
                let detail = format!(
                    "column {} is not a UUID: {}",
                    self.name(column),
                    describe(&cell)
                );
                let reject = Reject::new(RejectCode::BadUuid, detail);
                match cell {
                    Cell::Text(_) => reject,
                    _ => self.with_shape(column, reject),
                }
            }),
        }
    }

    /// Takes a time that is never null, in microseconds since the epoch.
    pub(crate) fn time(&mut self, column: usize) -> Result<i64, Reject> {
        let cell = self.cells.take(column);
        let micros = match &cell {
            Cell::Null => return Err(self.unexpected_null(column)),
            Cell::Text(text) => timestamp::parse(text),
            Cell::Integer(value) => {
                let unit = unit_of(self.schema, self.name(column)).ok_or_else(|| {
                    let name = self.name(column);
                    let detail = format!("column {name} is {value} and no schema gives its unit");
                    self.with_shape(
                        column,
                        Reject::new(RejectCode::TimestampUnitUnknown, detail),
                    )
                })?;
                unit.to_micros(*value)
            }
            other => return Err(self.wrong_type(column, "a time", other)),
        };
        micros
            .filter(|micros| timestamp::STORABLE.contains(micros))
            .ok_or_else(|| {
                let name = self.name(column);
                let detail = format!(
                    "column {name} is not a time from 1900 to 2299: {}",
                    describe(&cell)
                );
                Reject::new(RejectCode::BadTimestamp, detail)
            })
    }

    fn name(&self, column: usize) -> &'static str {
        self.cells.names[column]
    }

    fn bad_type(&self, column: usize, expected: &str, found: &Cell<'_>) -> Reject {
        let name = self.name(column);
        let detail = format!("column {name} is not {expected}: {}", describe(found));
        Reject::new(RejectCode::BadType, detail)
    }

    /// Returns a shape error: the column has another JSON type, and not only a value out of
    /// range.
    fn wrong_type(&self, column: usize, expected: &str, found: &Cell<'_>) -> Reject {
        self.with_shape(column, self.bad_type(column, expected, found))
    }

    fn with_shape(&self, column: usize, reject: Reject) -> Reject {
        reject.with_shape(Shape::Column(self.name(column)))
    }

    fn unexpected_null(&self, column: usize) -> Reject {
        let detail = format!("column {} is null", self.name(column));
        Reject::new(RejectCode::UnexpectedNull, detail)
    }
}

/// Parses a UUID in the only form that Postgres writes.
pub(crate) fn parse_uuid(cell: &Cell<'_>) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    match cell {
        Cell::Text(text) if text.len() == HYPHENATED => Uuid::try_parse(text).ok(),
        _ => None,
    }
}

impl Placeholders<'_> {
    fn include(&self, text: &str) -> bool {
        self.known.includes(text, self.partition, self.offset)
    }
}

/// Parses the row in `text`.
pub(super) fn read_row(text: &str, columns: ReadCells) -> Result<Cells<'_>, Reject> {
    match document::read(text, columns) {
        Ok(Part::Object(cells)) => match cells.duplicate {
            Some(name) => Err(envelope::duplicate(name)),
            None => Ok(cells),
        },
        Ok(_) => Err(Reject::new(RejectCode::BadType, "before is not an object")),
        Err(error) => {
            let detail = format!("before: {error}");
            Err(Reject::new(RejectCode::NotJson, detail))
        }
    }
}

/// Describes a cell for the detail of a reject.
pub(crate) fn describe(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Missing => "missing".to_owned(),
        Cell::Null => "null".to_owned(),
        Cell::Bool(value) => value.to_string(),
        Cell::Integer(value) => value.to_string(),
        Cell::Number(value) => format!("the number {value:?}"),
        Cell::Text(text) => format!("\"{}\"", excerpt(text)),
        Cell::Nested => "an object or array".to_owned(),
    }
}
