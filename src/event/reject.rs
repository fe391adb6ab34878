//! Why a record cannot be understood, and the codes that say so.
//!
//! The codes are written to dead letters and outlive a run: a code may be
//! added, none may change its text or its meaning.

use std::fmt;

/// A record that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Reject {
    pub code: RejectCode,
    /// One lowercase line: the column, what is wrong with it, and a short,
    /// escaped piece of its value.
    pub detail: String,
    /// What is not of the expected shape, in an otherwise valid record of the
    /// table. Such a record says something of the table or of the connector, and
    /// not of one row: others like it have to be expected.
    pub shape: Option<Shape>,
}

/// What of a record can be of another shape than expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A column is gone, or of another type.
    Column(&'static str),
    /// The row stands there without Debezium's envelope.
    Envelope,
}

impl Shape {
    /// The column that is concerned.
    #[must_use]
    pub fn column(self) -> Option<&'static str> {
        match self {
            Self::Column(name) => Some(name),
            Self::Envelope => None,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => write!(f, "column {name}"),
            Self::Envelope => f.write_str("Debezium's envelope"),
        }
    }
}

impl Reject {
    pub(crate) fn new(code: RejectCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            shape: None,
        }
    }

    pub(super) fn of_shape(mut self, shape: Shape) -> Self {
        self.shape = Some(shape);
        self
    }
}

/// The kinds of record that are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectCode {
    /// The value is there and has no bytes.
    EmptyValue,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value is not one JSON document.
    NotJson,
    /// The value is JSON, but not an object.
    NotAnObject,
    /// A field that matters is there twice; which one holds is not guessed.
    DuplicateField,
    /// There is no `op`.
    MissingOp,
    /// `op` is none of `c u d r t m`.
    UnknownOp,
    /// There is no `source` that names a table.
    MissingSource,
    /// `source` names another table, schema or connector.
    WrongSource,
    /// There is no key.
    MissingKey,
    /// The key holds no usable `id`.
    BadKey,
    /// The row's `id` is not the key's.
    KeyMismatch,
    /// `c`, `u` or `r` without `after`.
    MissingAfter,
    /// A column the program needs is gone.
    MissingColumn,
    /// `id` is not of the column's type.
    BadId,
    /// A column that is never null is null.
    UnexpectedNull,
    /// A column is not of its type.
    BadType,
    /// A column is not a UUID.
    BadUuid,
    /// A time that cannot be read, or outside 1900 to 2299.
    BadTimestamp,
    /// A time is a number and nothing says of what.
    TimestampUnitUnknown,
    /// A column holds Debezium's stand-in for an unchanged value, and `before`
    /// does not have it either.
    UnavailableValue,
}

impl RejectCode {
    /// Every code, in the order of the checks.
    pub const ALL: [Self; 21] = [
        Self::EmptyValue,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotAnObject,
        Self::DuplicateField,
        Self::MissingOp,
        Self::UnknownOp,
        Self::MissingSource,
        Self::WrongSource,
        Self::MissingKey,
        Self::BadKey,
        Self::KeyMismatch,
        Self::MissingAfter,
        Self::MissingColumn,
        Self::BadId,
        Self::UnexpectedNull,
        Self::BadType,
        Self::BadUuid,
        Self::BadTimestamp,
        Self::TimestampUnitUnknown,
        Self::UnavailableValue,
    ];

    /// The stable name, as in the `fanout-code` header of a dead letter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyValue => "empty_value",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateField => "duplicate_field",
            Self::MissingOp => "missing_op",
            Self::UnknownOp => "unknown_op",
            Self::MissingSource => "missing_source",
            Self::WrongSource => "wrong_source",
            Self::MissingKey => "missing_key",
            Self::BadKey => "bad_key",
            Self::KeyMismatch => "key_mismatch",
            Self::MissingAfter => "missing_after",
            Self::MissingColumn => "missing_column",
            Self::BadId => "bad_id",
            Self::UnexpectedNull => "unexpected_null",
            Self::BadType => "bad_type",
            Self::BadUuid => "bad_uuid",
            Self::BadTimestamp => "bad_timestamp",
            Self::TimestampUnitUnknown => "timestamp_unit_unknown",
            Self::UnavailableValue => "unavailable_value",
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
