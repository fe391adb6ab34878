//! Debezium's envelope: `{before, after, source, op, …}`, bare or as the `payload` next to its
//! `schema`.

use serde::de::{IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::cell::{Cell, Cells, NameIn, Part, ReadCells, ReadObject, ReadPart};
use super::document;
use super::reject::{Reject, RejectCode};
use crate::text::escape::excerpt;

/// Members of `source` that are read, in Debezium's order.
const SOURCE: [&str; 5] = ["name", "snapshot", "schema", "table", "lsn"];
pub(super) const NAME: usize = 0;
pub(super) const SNAPSHOT: usize = 1;
pub(super) const SCHEMA: usize = 2;
pub(super) const TABLE: usize = 3;
pub(super) const LSN: usize = 4;

/// Members of an envelope, in Debezium's order. Other members do not describe the row.
const MEMBERS: [&str; 10] = [
    "schema",
    "payload",
    "before",
    "after",
    "source",
    "transaction",
    "op",
    "ts_ms",
    "ts_us",
    "ts_ns",
];

/// One undecoded change event.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub before: Option<&'a RawValue>,
    pub after: Part<Cells<'a>>,
    pub source: Part<Cells<'a>>,
    pub op: Cell<'a>,
    /// The envelope's text, without the wrapper around it.
    pub text: &'a str,
    /// The schema in the wrapper.
    pub schema: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    has_clock: bool,
    has_unknown_members: bool,
    duplicate: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    /// Reads a record's value. `columns` are the columns to read from `after`.
    pub(super) fn read(text: &'a str, columns: ReadCells) -> Result<Self, Reject> {
        let outer = Self::read_object(text, columns)?;
        let Some(payload) = outer.payload.filter(|_| outer.is_wrapper()) else {
            return Ok(outer);
        };
        let inner = Self::read_object(payload.get(), columns)?;
        Ok(Self {
            schema: outer.schema,
            ..inner
        })
    }

    fn read_object(text: &'a str, columns: ReadCells) -> Result<Self, Reject> {
        let part = document::read(text, ReadEnvelope { columns })
            .map_err(|error| Reject::new(RejectCode::NotJson, format!("value: {error}")))?;
        let Part::Object(envelope) = part else {
            let detail = format!("value is not an object: {}", excerpt(text));
            return Err(Reject::new(RejectCode::NotAnObject, detail));
        };
        if let Some(name) = envelope.duplicate {
            return Err(duplicate(name));
        }
        Ok(Self { text, ..envelope })
    }

    fn is_wrapper(&self) -> bool {
        self.has_no_event() && !self.has_clock
    }

    /// Returns true if the value contains only the connector's timestamps.
    pub(super) fn is_heartbeat(&self) -> bool {
        self.has_no_event() && self.has_clock && !self.has_unknown_members && self.payload.is_none()
    }

    fn has_no_event(&self) -> bool {
        matches!(self.op, Cell::Missing)
            && matches!(self.after, Part::Missing)
            && matches!(self.source, Part::Missing)
            && self.before.is_none()
    }

    /// Returns the text of `before` if it contains a row.
    pub(super) fn before_text(&self) -> Option<&'a str> {
        self.before
            .map(RawValue::get)
            .filter(|text| *text != "null")
    }
}

/// Returns the reject of a field that appears twice.
pub(super) fn duplicate(name: &str) -> Reject {
    Reject::new(RejectCode::DuplicateField, format!("{name} appears twice"))
}

struct ReadEnvelope {
    columns: ReadCells,
}

impl<'de> ReadObject<'de> for ReadEnvelope {
    type Value = Envelope<'de>;

    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        let (mut seen, mut expected) = (0_u16, 2);
        while let Some(found) = map.next_key_seed(NameIn {
            names: &MEMBERS,
            expected,
        })? {
            let Some(member) = found else {
                envelope.has_unknown_members = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << member) != 0 {
                envelope.duplicate = Some(MEMBERS[member]);
            }
            seen |= 1 << member;
            expected = member + 1;
            match MEMBERS[member] {
                "schema" => envelope.schema = Some(map.next_value()?),
                "payload" => envelope.payload = Some(map.next_value()?),
                "before" => envelope.before = Some(map.next_value()?),
                "after" => {
                    envelope.after = map.next_value_seed(ReadPart(self.columns))?;
                }
                "source" => {
                    envelope.source = map.next_value_seed(ReadPart(ReadCells::all(&SOURCE)))?;
                }
                "op" => envelope.op = map.next_value()?,
                "transaction" => drop(map.next_value::<IgnoredAny>()?),
                _ => {
                    envelope.has_clock = true;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}
