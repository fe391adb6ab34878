//! Rejected records, and the codes of the reasons.
//!
//! The codes are written to dead letters and outlive a run. A code may be added, but no code
//! may change its text or its meaning.

use std::fmt;

/// A record that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Reject {
    pub code: RejectCode,
    /// One lowercase line: the column, the problem, and a short, escaped excerpt of the value.
    pub detail: String,
    /// The part with an unexpected shape, in an otherwise valid record of the table. Such a
    /// record indicates a change to the table or the connector rather than one bad row, so more
    /// of them have to be expected.
    pub shape: Option<Shape>,
}

/// The part of a record whose shape is unexpected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The column is missing or has another type.
    Column(&'static str),
    /// The record is a bare row without Debezium's envelope.
    Envelope,
}

impl Shape {
    /// Returns the column concerned.
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

    pub(super) fn with_shape(mut self, shape: Shape) -> Self {
        self.shape = Some(shape);
        self
    }
}

/// Reasons why a record cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectCode {
    /// The value has no bytes.
    EmptyValue,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value is not one JSON document.
    NotJson,
    /// The value is JSON, but not an object.
    NotAnObject,
    /// A relevant field appears twice, so its value is ambiguous.
    DuplicateField,
    /// There is no `op`.
    MissingOp,
    /// `op` is none of `c u d r t m`.
    UnknownOp,
    /// There is no `source` with a table name.
    MissingSource,
    /// `source` names another table, schema or connector.
    WrongSource,
    /// There is no key.
    MissingKey,
    /// The key has no usable `id`.
    BadKey,
    /// The row's `id` differs from the key's.
    KeyMismatch,
    /// `c`, `u` or `r` without `after`.
    MissingAfter,
    /// A required column is missing.
    MissingColumn,
    /// `id` does not have the column's type.
    BadId,
    /// A column that is never null is null.
    UnexpectedNull,
    /// A column does not have its expected type.
    BadType,
    /// A column is not a UUID.
    BadUuid,
    /// A time cannot be parsed or is outside 1900 to 2299.
    BadTimestamp,
    /// A time is a number, and the schema does not give its unit.
    TimestampUnitUnknown,
    /// A column holds the placeholder for an unchanged value, and `before` lacks the value as
    /// well.
    UnavailableValue,
}

impl RejectCode {
    /// All codes, in the order of the checks.
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

    /// Returns the stable name, as in the `fanout-code` header of a dead letter.
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
