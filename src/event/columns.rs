//! The columns of one row, each read as what it has to be.
//!
//! Also decides what a placeholder stands for, where the connector did not have
//! a value that Postgres stores out of line.

use std::borrow::Cow;

use uuid::Uuid;

use super::cell::{Cell, Cells, ColumnSet, Part, ReadCells};
use super::document;
use super::envelope;
use super::reject::{Reject, RejectCode, Shape};
use super::schema::unit_of;
use super::unavailable::Unavailable;
use crate::escape::excerpt;
use crate::timestamp;

const INTEGER: &str = "a 32-bit integer";

/// 2^63, from which on no number is a 64-bit integer.
const BEYOND_64_BITS: f64 = 9_223_372_036_854_775_808.0;

/// The columns of one `after`, to be taken one by one as what they have to be.
#[derive(Debug)]
pub struct Columns<'a, 'k> {
    cells: Cells<'a>,
    envelope: &'a str,
    before: Option<&'a str>,
    schema: Option<&'a str>,
    /// The columns taken from `before`.
    restored: ColumnSet,
    /// Only of an update: other records have every value.
    placeholders: Option<Placeholders<'k>>,
}

/// What it takes to recognise a value that the connector did not have.
#[derive(Debug)]
pub(super) struct Placeholders<'k> {
    pub known: &'k Unavailable,
    pub partition: i32,
    pub offset: i64,
    pub never_null: ColumnSet,
}

impl<'a, 'k> Columns<'a, 'k> {
    /// The columns of `after`, in an envelope of this text with this `before`
    /// and this schema.
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

    /// What a column of variable length holds. A placeholder stands for the
    /// value of `before`, unless it is itself the value: a text like any other
    /// that somebody has stored.
    fn available(&mut self, column: usize) -> Result<Cell<'a>, Reject> {
        let cell = self.cells.take(column);
        let Some(placeholders) = &self.placeholders else {
            return Ok(cell);
        };
        if !matches!(&cell, Cell::Text(text) if placeholders.stand_for(text)) {
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
            // The old row never holds a placeholder.
            Cell::Text(text) if matches!(&cell, Cell::Text(now) if *now == text) => Ok(cell),
            // A value that is stored out of line is not null, so this one has
            // changed; but an old row that is only a key says null of the others.
            Cell::Null if old.is_whole(placeholders.never_null) => Ok(cell),
            Cell::Null | Cell::Missing => Err(unavailable()),
            value => {
                self.restored = self.restored.with(column);
                Ok(value)
            }
        }
    }

    /// Text, or null.
    pub(super) fn text(&mut self, column: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.available(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => Err(self.other_type(column, "text", &other)),
        }
    }

    /// Text that is never null.
    pub(super) fn required_text(&mut self, column: usize) -> Result<Cow<'a, str>, Reject> {
        self.text(column)?
            .ok_or_else(|| self.unexpected_null(column))
    }

    /// A JSON document's text, or null. The connector writes it as a string;
    /// delivered as a value, its exact text is kept.
    pub(super) fn json(&mut self, column: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.available(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => match self.text_of(column) {
                Some(text) => Ok(Some(Cow::Borrowed(text))),
                None => Err(self.other_type(column, "JSON", &other)),
            },
        }
    }

    /// The exact text of a column's value.
    fn text_of(&self, column: usize) -> Option<&'a str> {
        let row = if self.restored.has(column) {
            self.before
        } else {
            document::member(self.envelope, "after")
        };
        document::member(row?, self.name(column))
    }

    /// A 32-bit integer, or null.
    pub(super) fn integer(&mut self, column: usize) -> Result<Option<i32>, Reject> {
        let cell = self.cells.take(column);
        match cell {
            Cell::Null => Ok(None),
            Cell::Integer(value) => match i32::try_from(value) {
                Ok(value) => Ok(Some(value)),
                // The type is right, the value too large.
                Err(_) => Err(self.bad_type(column, INTEGER, &cell)),
            },
            // No integer column of Postgres reaches so far: it is one bad value.
            Cell::Number(value) if value.abs() >= BEYOND_64_BITS => {
                Err(self.bad_type(column, INTEGER, &cell))
            }
            other => Err(self.other_type(column, INTEGER, &other)),
        }
    }

    /// A UUID, or null.
    pub(super) fn uuid(&mut self, column: usize) -> Result<Option<Uuid>, Reject> {
        match self.cells.take(column) {
            Cell::Null => Ok(None),
            cell => parse_uuid(&cell).map(Some).ok_or_else(|| {
                let detail = format!("column {} is no UUID: {}", self.name(column), shown(&cell));
                let reject = Reject::new(RejectCode::BadUuid, detail);
                match cell {
                    Cell::Text(_) => reject,
                    _ => self.of_shape(column, reject),
                }
            }),
        }
    }

    /// A time that is never null, in microseconds since the epoch.
    pub(super) fn time(&mut self, column: usize) -> Result<i64, Reject> {
        let cell = self.cells.take(column);
        let micros = match &cell {
            Cell::Null => return Err(self.unexpected_null(column)),
            Cell::Text(text) => timestamp::parse(text),
            Cell::Integer(value) => {
                let unit = unit_of(self.schema, self.name(column)).ok_or_else(|| {
                    let name = self.name(column);
                    let detail = format!("column {name} is {value} and no schema names its unit");
                    self.of_shape(
                        column,
                        Reject::new(RejectCode::TimestampUnitUnknown, detail),
                    )
                })?;
                unit.to_micros(*value)
            }
            other => return Err(self.other_type(column, "a time", other)),
        };
        micros
            .filter(|micros| timestamp::STORABLE.contains(micros))
            .ok_or_else(|| {
                let name = self.name(column);
                let detail = format!(
                    "column {name} is no time from 1900 to 2299: {}",
                    shown(&cell)
                );
                Reject::new(RejectCode::BadTimestamp, detail)
            })
    }

    fn name(&self, column: usize) -> &'static str {
        self.cells.names[column]
    }

    fn bad_type(&self, column: usize, expected: &str, found: &Cell<'_>) -> Reject {
        let name = self.name(column);
        let detail = format!("column {name} is not {expected}: {}", shown(found));
        Reject::new(RejectCode::BadType, detail)
    }

    /// The same where the column is of another JSON type, and not only its value
    /// out of range.
    fn other_type(&self, column: usize, expected: &str, found: &Cell<'_>) -> Reject {
        self.of_shape(column, self.bad_type(column, expected, found))
    }

    fn of_shape(&self, column: usize, reject: Reject) -> Reject {
        reject.of_shape(Shape::Column(self.name(column)))
    }

    fn unexpected_null(&self, column: usize) -> Reject {
        let detail = format!("column {} is null", self.name(column));
        Reject::new(RejectCode::UnexpectedNull, detail)
    }
}

/// A UUID in the one form Postgres writes.
pub(super) fn parse_uuid(cell: &Cell<'_>) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    match cell {
        Cell::Text(text) if text.len() == HYPHENATED => Uuid::try_parse(text).ok(),
        _ => None,
    }
}

impl Placeholders<'_> {
    fn stand_for(&self, text: &str) -> bool {
        self.known.includes(text, self.partition, self.offset)
    }
}

/// Reads the row in `text`.
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

/// A piece of a cell for a reject's detail.
pub(super) fn shown(cell: &Cell<'_>) -> String {
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
