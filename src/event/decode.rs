//! From a record to a change: which checks there are, and in which order.
//!
//! The tables say what their columns are ([`Table`]); this module says what
//! the envelope means.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use uuid::Uuid;

use super::cell::{Cell, Cells, Part, ReadCells};
use super::envelope::{self, Envelope};
use super::reject::{Reject, RejectCode};
use super::schema::unit_of;
use super::{Change, Ignored, Origin, Record, document, key};
use crate::escape::excerpt;
use crate::timestamp;

/// What Debezium writes instead of a stored-aside value that did not change.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The table a topic's records have to be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// The connector's `topic.prefix`, which is `source.name`.
    pub prefix: String,
    pub schema: String,
    pub table: String,
}

impl SourceTable {
    /// The topic the connector writes this table's changes to.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("{}.{}.{}", self.prefix, self.schema, self.table)
    }

    /// The table's name with its schema.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// The columns of a source table and what a row of them is.
pub trait Table {
    type Row<'a>;
    type Id: Copy + PartialEq + fmt::Display;

    /// The columns a row must have, in the table's order, its `id` first.
    const COLUMNS: &'static [&'static str];

    /// Whether a tombstone says that the row is gone: where the topic is
    /// compacted, it may be all that is left of the delete before it.
    const TOMBSTONE_DELETES: bool;

    /// Reads an `id`, of the row or of the key.
    ///
    /// # Errors
    /// What is wrong with it, for a detail.
    fn id(cell: &Cell<'_>) -> Result<Self::Id, String>;

    /// Reads the other columns.
    ///
    /// # Errors
    /// The first column that is not of its type.
    fn row<'a>(id: Self::Id, columns: &mut Columns<'a>) -> Result<Self::Row<'a>, Reject>;
}

/// Decodes the records of one source table.
#[derive(Debug, Clone)]
pub struct Decoder<T> {
    source: SourceTable,
    table: PhantomData<fn() -> T>,
}

impl<T: Table> Decoder<T> {
    /// A decoder for the records of this table and no other.
    #[must_use]
    pub fn new(source: SourceTable) -> Self {
        Self {
            source,
            table: PhantomData,
        }
    }

    /// The table whose records it decodes.
    #[must_use]
    pub fn source(&self) -> &SourceTable {
        &self.source
    }

    /// What the record does to the table. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// The record is not understood; the reject says why.
    pub fn decode<'a>(&self, record: &Record<'a>) -> Result<Change<T::Row<'a>, T::Id>, Reject> {
        let Some(value) = record.value else {
            if T::TOMBSTONE_DELETES {
                return key_id::<T>(record).map(|id| Change::Delete { id });
            }
            return Ok(Change::Ignored(Ignored::Tombstone));
        };
        if value.is_empty() {
            return Err(Reject::new(RejectCode::EmptyValue, "value has no bytes"));
        }
        let text = simdutf8::basic::from_utf8(value)
            .map_err(|_| Reject::new(RejectCode::NotUtf8, "value is not UTF-8"))?;
        let envelope = Envelope::read(text, T::COLUMNS)?;
        if envelope.is_heartbeat() {
            return Ok(Change::Ignored(Ignored::Heartbeat));
        }
        match operation(&envelope.op)? {
            Operation::Message => Ok(Change::Ignored(Ignored::Message)),
            Operation::Truncate => {
                let source = self.check_source(&envelope.source)?;
                Ok(Change::Truncate { lsn: source.lsn })
            }
            Operation::Delete => self.delete(record, &envelope),
            Operation::Upsert(origin) => self.upsert(record, envelope, origin),
        }
    }

    fn upsert<'a>(
        &self,
        record: &Record<'a>,
        envelope: Envelope<'a>,
        origin: Origin,
    ) -> Result<Change<T::Row<'a>, T::Id>, Reject> {
        let source = self.check_source(&envelope.source)?;
        let origin = match origin {
            Origin::Snapshot if source.incremental => Origin::IncrementalSnapshot,
            other => other,
        };
        let key = key_id::<T>(record)?;
        let before = envelope.before_text();
        let Part::Object(cells) = envelope.after else {
            let what = if matches!(envelope.after, Part::Other) {
                "after is not an object"
            } else {
                "after is missing"
            };
            return Err(Reject::new(RejectCode::MissingAfter, what));
        };
        check_columns(&cells)?;
        let extra_fields = cells.extra;
        let id = row_id::<T>(cells.get(0))?;
        check_same(key, id)?;
        let mut columns = Columns {
            cells,
            envelope: envelope.text,
            before,
            restored: 0,
            schema: envelope.schema.map(serde_json::value::RawValue::get),
        };
        columns.restore_unavailable()?;
        let row = T::row(id, &mut columns)?;
        Ok(Change::Upsert {
            origin,
            row,
            extra_fields,
            lsn: source.lsn,
        })
    }

    /// The key knows the row; `before`, where it is there, must agree.
    fn delete<'a>(
        &self,
        record: &Record<'a>,
        envelope: &Envelope<'a>,
    ) -> Result<Change<T::Row<'a>, T::Id>, Reject> {
        self.check_source(&envelope.source)?;
        let id = key_id::<T>(record)?;
        if let Some(before) = envelope.before_text() {
            let cells = read_before(before, &["id"])?;
            if !matches!(cells.get(0), Cell::Missing) {
                check_same(id, row_id::<T>(cells.get(0))?)?;
            }
        }
        Ok(Change::Delete { id })
    }

    /// Whether the record says it is of this table, and where it comes from.
    /// The table must be named; schema and connector must be the right ones
    /// where they are.
    fn check_source(&self, source: &Part<Cells<'_>>) -> Result<Source, Reject> {
        let missing = |detail| Err(Reject::new(RejectCode::MissingSource, detail));
        let Part::Object(source) = source else {
            return missing("source is missing");
        };
        if let Some(name) = source.duplicate {
            return Err(envelope::duplicate(name));
        }
        if matches!(source.get(envelope::TABLE), Cell::Missing | Cell::Null) {
            return missing("source names no table");
        }
        for (column, expected) in [
            (envelope::TABLE, &self.source.table),
            (envelope::SCHEMA, &self.source.schema),
            (envelope::NAME, &self.source.prefix),
        ] {
            match source.get(column) {
                Cell::Missing | Cell::Null => {}
                Cell::Text(name) if *name == *expected => {}
                other => {
                    let name = source.names[column];
                    let detail = format!("source.{name} is {}, not {expected}", shown(other));
                    return Err(Reject::new(RejectCode::WrongSource, detail));
                }
            }
        }
        let snapshot = source.get(envelope::SNAPSHOT);
        Ok(Source {
            incremental: matches!(snapshot, Cell::Text(mode) if mode == "incremental"),
            lsn: match source.get(envelope::LSN) {
                Cell::Integer(lsn) => Some(*lsn),
                _ => None,
            },
        })
    }
}

/// What a record says of its origin.
struct Source {
    /// It was read by a snapshot that was signalled.
    incremental: bool,
    lsn: Option<i64>,
}

enum Operation {
    Upsert(Origin),
    Delete,
    Truncate,
    Message,
}

fn operation(op: &Cell<'_>) -> Result<Operation, Reject> {
    let text = match op {
        Cell::Missing => return Err(Reject::new(RejectCode::MissingOp, "op is missing")),
        Cell::Text(text) => text.as_ref(),
        _ => "",
    };
    Ok(match text {
        "c" => Operation::Upsert(Origin::Insert),
        "u" => Operation::Upsert(Origin::Update),
        "r" => Operation::Upsert(Origin::Snapshot),
        "d" => Operation::Delete,
        "t" => Operation::Truncate,
        "m" => Operation::Message,
        _ => {
            let detail = format!("op is {}", shown(op));
            return Err(Reject::new(RejectCode::UnknownOp, detail));
        }
    })
}

fn key_id<T: Table>(record: &Record<'_>) -> Result<T::Id, Reject> {
    let cell = key::id(record.key)?;
    T::id(&cell).map_err(|detail| key::bad(format!("key's {detail}")))
}

fn row_id<T: Table>(cell: &Cell<'_>) -> Result<T::Id, Reject> {
    T::id(cell).map_err(|detail| Reject::new(RejectCode::BadId, detail))
}

fn check_same<I: Copy + PartialEq + fmt::Display>(key: I, id: I) -> Result<(), Reject> {
    if key == id {
        return Ok(());
    }
    let detail = format!("id is {id}, the key's is {key}");
    Err(Reject::new(RejectCode::KeyMismatch, detail))
}

fn check_columns(cells: &Cells<'_>) -> Result<(), Reject> {
    if let Some(name) = cells.duplicate {
        return Err(envelope::duplicate(name));
    }
    let columns = cells.names.iter().zip(&cells.values);
    for (name, cell) in columns {
        if matches!(cell, Cell::Missing) {
            let detail = format!("column {name} is missing");
            return Err(Reject::new(RejectCode::MissingColumn, detail));
        }
    }
    Ok(())
}

fn read_before<'a>(text: &'a str, names: &'static [&'static str]) -> Result<Cells<'a>, Reject> {
    match document::read(text, ReadCells(names)) {
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

/// The columns of one `after`, to be taken one by one as what they have to be.
#[derive(Debug)]
pub struct Columns<'a> {
    cells: Cells<'a>,
    envelope: &'a str,
    before: Option<&'a str>,
    /// The columns taken from `before`, a bit each.
    restored: u8,
    schema: Option<&'a str>,
}

impl<'a> Columns<'a> {
    /// Puts the values of `before` where the connector had none.
    fn restore_unavailable(&mut self) -> Result<(), Reject> {
        if !self.cells.values.iter().any(is_unavailable) {
            return Ok(());
        }
        let names = self.cells.names;
        let mut old = self
            .before
            .map(|text| read_before(text, names))
            .transpose()?;
        for (column, name) in names.iter().enumerate() {
            if !is_unavailable(self.cells.get(column)) {
                continue;
            }
            let restored = old.as_mut().map(|old| old.take(column)).unwrap_or_default();
            if is_unavailable(&restored) || matches!(restored, Cell::Missing) {
                let detail = format!(
                    "column {name} did not change and is not in before: the table needs \
                     REPLICA IDENTITY FULL"
                );
                return Err(Reject::new(RejectCode::UnavailableValue, detail));
            }
            self.cells.values[column] = restored;
            self.restored |= 1 << column;
        }
        Ok(())
    }

    /// Text, or null.
    pub(super) fn text(&mut self, column: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.cells.take(column) {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => Err(self.bad_type(column, "text", &other)),
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
        match self.cells.take(column) {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other => match self.text_of(column) {
                Some(text) => Ok(Some(Cow::Borrowed(text))),
                None => Err(self.bad_type(column, "JSON", &other)),
            },
        }
    }

    /// The exact text of a column's value.
    fn text_of(&self, column: usize) -> Option<&'a str> {
        let row = if self.restored & (1 << column) == 0 {
            document::member(self.envelope, "after")
        } else {
            self.before
        };
        document::member(row?, self.name(column))
    }

    /// A 32-bit integer, or null.
    pub(super) fn integer(&mut self, column: usize) -> Result<Option<i32>, Reject> {
        let cell = self.cells.take(column);
        match cell {
            Cell::Null => Ok(None),
            Cell::Integer(value) if i32::try_from(value).is_ok() => Ok(i32::try_from(value).ok()),
            other => Err(self.bad_type(column, "a 32-bit integer", &other)),
        }
    }

    /// A UUID, or null.
    pub(super) fn uuid(&mut self, column: usize) -> Result<Option<Uuid>, Reject> {
        match self.cells.take(column) {
            Cell::Null => Ok(None),
            cell => parse_uuid(&cell).map(Some).ok_or_else(|| {
                let detail = format!("column {} is no UUID: {}", self.name(column), shown(&cell));
                Reject::new(RejectCode::BadUuid, detail)
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
                    Reject::new(RejectCode::TimestampUnitUnknown, detail)
                })?;
                unit.to_micros(*value)
            }
            other => return Err(self.bad_type(column, "a time", other)),
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

fn is_unavailable(cell: &Cell<'_>) -> bool {
    matches!(cell, Cell::Text(text) if text == UNAVAILABLE)
}
