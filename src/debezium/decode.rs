//! Decoding of a record into a change: the checks and their order.
//!
//! A [`Table`] defines the columns. This module interprets the envelope.

use std::fmt;
use std::marker::PhantomData;

use super::cell::{Cell, Cells, ColumnSet, Part, ReadCells};
use super::change::{Change, Ignored, Origin, Record};
use super::columns::{Columns, Placeholders, describe, read_row};
use super::envelope::{self, Envelope};
use super::key;
use super::reject::{Reject, RejectCode, Shape};
use super::unavailable::Unavailable;

/// The table that a topic's records must belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// The connector's `topic.prefix`, which is also `source.name`.
    pub prefix: String,
    pub schema: String,
    pub table: String,
}

impl SourceTable {
    /// Returns the topic that the connector writes this table's changes to.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("{}.{}.{}", self.prefix, self.schema, self.table)
    }

    /// Returns the table's name with its schema.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// One reader's view of a source table: the columns that it reads, and the type of its rows. A
/// column that is not read can neither reject a record nor be reported as missing.
pub trait Table {
    type Row<'a>;
    type Id: Copy + PartialEq + fmt::Display;

    /// Columns of the source table that fanout knows, in the table's order, starting with `id`.
    const COLUMNS: &'static [&'static str];

    /// Columns that are read. Always includes the `id`.
    const READ: ColumnSet;

    /// Columns that are never null in the source.
    const NEVER_NULL: ColumnSet;

    /// Whether a tombstone deletes the row. In a compacted topic, the tombstone may be all that
    /// is left of a delete.
    const TOMBSTONE_DELETES: bool;

    /// Parses the `id` of a row or a key.
    ///
    /// # Errors
    /// The problem with the `id`.
    fn id(cell: &Cell<'_>) -> Result<Self::Id, BadId>;

    /// Parses the other columns.
    ///
    /// # Errors
    /// The first invalid column.
    fn row<'a>(id: Self::Id, columns: &mut Columns<'a, '_>) -> Result<Self::Row<'a>, Reject>;
}

/// Returns the names of the columns that a reader reads.
#[must_use]
pub fn columns_read<T: Table>() -> Vec<&'static str> {
    let names = T::COLUMNS.iter().enumerate();
    let read = names.filter(|(index, _)| T::READ.has(*index));
    read.map(|(_, name)| *name).collect()
}

/// Reason why a cell holds no valid `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadId {
    /// Text for the detail of a reject.
    pub detail: String,
    /// Whether the cell is missing, or has a JSON type that no `id` of the table has.
    pub is_shape_error: bool,
}

/// Decodes the records of one source table for one reader.
#[derive(Debug)]
pub struct Decoder<T> {
    source: SourceTable,
    unavailable: Unavailable,
    table: PhantomData<fn() -> T>,
}

impl<T> Clone for Decoder<T> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            unavailable: self.unavailable.clone(),
            table: PhantomData,
        }
    }
}

impl<T: Table> Decoder<T> {
    /// Returns a decoder for the records of this table only, with Debezium's default
    /// placeholder as the only one.
    #[must_use]
    pub fn new(source: SourceTable) -> Self {
        Self::with_placeholders(source, Unavailable::default())
    }

    /// Returns a decoder that uses these placeholders of the table's topic.
    #[must_use]
    pub fn with_placeholders(source: SourceTable, unavailable: Unavailable) -> Self {
        Self {
            source,
            unavailable,
            table: PhantomData,
        }
    }

    /// Returns the table whose records the decoder accepts.
    #[must_use]
    pub fn source(&self) -> &SourceTable {
        &self.source
    }

    /// Decodes the record into a change of the table. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// If the record cannot be decoded. The reject contains the reason.
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
        let columns = ReadCells {
            names: T::COLUMNS,
            read: T::READ,
        };
        let envelope = Envelope::read(text, columns)?;
        if envelope.is_heartbeat() {
            return Ok(Change::Ignored(Ignored::Heartbeat));
        }
        if matches!(envelope.op, Cell::Missing) {
            return Err(reject_without_op::<T>(record, &envelope));
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
        let before = envelope.before_text();
        let Part::Object(cells) = envelope.after else {
            key_id::<T>(record)?;
            let detail = if matches!(envelope.after, Part::Other) {
                "after is not an object"
            } else {
                "after is missing"
            };
            return Err(Reject::new(RejectCode::MissingAfter, detail));
        };
        let key = checked_key_id::<T>(record, cells.get(0))?;
        check_columns::<T>(&cells)?;
        let extra_fields = cells.extra;
        let id = row_id::<T>(cells.get(0))?;
        check_key_matches(key, id)?;
        let schema = envelope.schema.map(serde_json::value::RawValue::get);
        let placeholders = (origin == Origin::Update).then_some(Placeholders {
            known: &self.unavailable,
            partition: record.partition,
            offset: record.offset,
            never_null: T::NEVER_NULL,
        });
        let mut columns = Columns::new(cells, envelope.text, before, schema, placeholders);
        let row = T::row(id, &mut columns)?;
        Ok(Change::Upsert {
            origin,
            row,
            extra_fields,
            lsn: source.lsn,
        })
    }

    /// Decodes a delete. The key identifies the row; `before` must match it if present.
    fn delete<'a>(
        &self,
        record: &Record<'a>,
        envelope: &Envelope<'a>,
    ) -> Result<Change<T::Row<'a>, T::Id>, Reject> {
        self.check_source(&envelope.source)?;
        let id = key_id::<T>(record)?;
        if let Some(before) = envelope.before_text() {
            let cells = read_row(before, ReadCells::all(&["id"]))?;
            if !matches!(cells.get(0), Cell::Missing) {
                check_key_matches(id, row_id::<T>(cells.get(0))?)?;
            }
        }
        Ok(Change::Delete { id })
    }

    /// Checks that the record belongs to this table, and returns its source. The table name is
    /// required. The schema and the connector name are optional but must match if present.
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
                    let detail = format!("source.{name} is {}, not {expected}", describe(other));
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

/// The relevant part of a record's `source`.
struct Source {
    /// Whether the record was read by an incremental snapshot.
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
            let detail = format!("op is {}", describe(op));
            return Err(Reject::new(RejectCode::UnknownOp, detail));
        }
    })
}

/// Returns the reject of a record without `op`. A bare row of the table is a shape error,
/// because a transform of the connector flattens all records.
fn reject_without_op<T: Table>(record: &Record<'_>, envelope: &Envelope<'_>) -> Reject {
    let reject = Reject::new(RejectCode::MissingOp, "op is missing");
    let Ok(cells) = read_row(envelope.text, ReadCells::all(T::COLUMNS)) else {
        return reject;
    };
    let known = cells
        .values
        .iter()
        .filter(|cell| !matches!(cell, Cell::Missing));
    let is_row = known.count() > 1
        && key_id::<T>(record).is_ok_and(|key| T::id(cells.get(0)).is_ok_and(|id| id == key));
    if !is_row {
        return reject;
    }
    Reject {
        detail: "op is missing: the record is a bare row without Debezium's envelope".to_owned(),
        ..reject
    }
    .with_shape(Shape::Envelope)
}

fn key_id<T: Table>(record: &Record<'_>) -> Result<T::Id, Reject> {
    let cell = key::id(record.key)?;
    read_key::<T>(&cell)
}

fn read_key<T: Table>(cell: &Cell<'_>) -> Result<T::Id, Reject> {
    T::id(cell).map_err(|bad| key::bad(format!("key's {}", bad.detail)))
}

/// Returns the key's `id`. If the row's `id` has the same wrong shape, the table's `id` has
/// changed and not only one record.
fn checked_key_id<T: Table>(record: &Record<'_>, row: &Cell<'_>) -> Result<T::Id, Reject> {
    let cell = key::id(record.key)?;
    read_key::<T>(&cell).map_err(|reject| {
        let is_shape_error = T::id(row).is_err_and(|bad| bad.is_shape_error) && cell == *row;
        if is_shape_error {
            reject.with_shape(Shape::Column(T::COLUMNS[0]))
        } else {
            reject
        }
    })
}

fn row_id<T: Table>(cell: &Cell<'_>) -> Result<T::Id, Reject> {
    T::id(cell).map_err(|bad| Reject::new(RejectCode::BadId, bad.detail))
}

fn check_key_matches<I: Copy + PartialEq + fmt::Display>(key: I, id: I) -> Result<(), Reject> {
    if key == id {
        return Ok(());
    }
    let detail = format!("id is {id}, the key's is {key}");
    Err(Reject::new(RejectCode::KeyMismatch, detail))
}

fn check_columns<T: Table>(cells: &Cells<'_>) -> Result<(), Reject> {
    if let Some(name) = cells.duplicate {
        return Err(envelope::duplicate(name));
    }
    let columns = cells.names.iter().zip(&cells.values).enumerate();
    for (index, (name, cell)) in columns {
        if T::READ.has(index) && matches!(cell, Cell::Missing) {
            let detail = format!("column {name} is missing");
            let reject = Reject::new(RejectCode::MissingColumn, detail);
            // The key contains the id, so only this record lacks it.
            let shape_error = || reject.clone().with_shape(Shape::Column(name));
            return Err(if index == 0 { reject } else { shape_error() });
        }
    }
    Ok(())
}
