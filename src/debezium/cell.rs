//! The columns of a JSON object, found by name in one pass and kept unconverted, so that each
//! can be checked separately.
//!
//! Knows no tables: the modules above define the expected types.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// Maximum number of columns that can be read from an object.
pub(super) const MAX_COLUMNS: usize = 8;

/// The value of a column.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Cell<'a> {
    #[default]
    Missing,
    Null,
    Bool(bool),
    Integer(i64),
    /// A number with a fraction or an exponent, or outside the range of `i64`.
    Number(f64),
    /// Borrowed unless the JSON had escapes.
    Text(Cow<'a, str>),
    /// An object or an array, which is not parsed.
    Nested,
}

impl<'de: 'a, 'a> Deserialize<'de> for Cell<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl<'de> Visitor<'de> for CellVisitor {
    type Value = Cell<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Cell::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Cell::Integer(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "only shown in an error")]
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Cell::Number(value as f64), Cell::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Cell::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }
}

/// The content found where an object is expected.
#[derive(Debug, Default)]
pub(super) enum Part<T> {
    #[default]
    Missing,
    Null,
    /// A scalar or an array.
    Other,
    Object(T),
}

/// Reads the members of an object.
pub(super) trait ReadObject<'de> {
    type Value;

    fn read<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error>;
}

/// Reads an object, or reports what else the value is.
pub(super) struct ReadPart<R>(pub R);

impl<'de, R: ReadObject<'de>> DeserializeSeed<'de> for ReadPart<R> {
    type Value = Part<R::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: ReadObject<'de>> Visitor<'de> for ReadPart<R> {
    type Value = Part<R::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Part::Null)
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_str<E>(self, _value: &str) -> Result<Self::Value, E> {
        Ok(Part::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Part::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.0.read(map).map(Part::Object)
    }
}

/// Looks up a member's name in a list, trying the expected index first, because the connector
/// writes the members in a fixed order.
pub(super) struct NameIn<'n> {
    pub names: &'n [&'static str],
    pub expected: usize,
}

impl NameIn<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        if self.names.get(self.expected) == Some(&name) {
            return Some(self.expected);
        }
        self.names.iter().position(|known| *known == name)
    }
}

impl<'de> DeserializeSeed<'de> for NameIn<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIn<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.find(value))
    }
}

/// A set of columns, identified by their indices in a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnSet(u8);

impl ColumnSet {
    pub(super) const NONE: Self = Self(0);

    /// All columns of the list.
    pub const ALL: Self = Self(u8::MAX);

    /// Returns the set of the columns with these indices, each below [`MAX_COLUMNS`].
    pub const fn of(indices: &[usize]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < indices.len() {
            bits |= 1 << indices[next];
            next += 1;
        }
        Self(bits)
    }

    pub(super) const fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    pub(super) const fn with(self, index: usize) -> Self {
        Self(self.0 | (1 << index))
    }
}

/// The columns of one object, in the order of `names`.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    pub names: &'static [&'static str],
    /// [`Cell::Missing`] for a column that was not read.
    pub values: [Cell<'a>; MAX_COLUMNS],
    /// Whether the object has members that are not in `names`.
    pub extra: bool,
    /// A column that was read and appears twice.
    pub duplicate: Option<&'static str>,
}

impl<'a> Cells<'a> {
    pub(super) fn take(&mut self, column: usize) -> Cell<'a> {
        self.values
            .get_mut(column)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Returns true if each of these columns exists and is not null.
    pub(super) fn is_complete(&self, never_null: ColumnSet) -> bool {
        let mut cells = self.values.iter().enumerate();
        cells.all(|(index, cell)| {
            !never_null.has(index) || !matches!(cell, Cell::Missing | Cell::Null)
        })
    }

    pub(super) fn get(&self, column: usize) -> &Cell<'a> {
        self.values.get(column).unwrap_or(&Cell::Missing)
    }
}

/// Reads some of the columns with these names, at most [`MAX_COLUMNS`]. The other known columns
/// are skipped without parsing.
#[derive(Clone, Copy)]
pub(super) struct ReadCells {
    pub names: &'static [&'static str],
    pub read: ColumnSet,
}

impl ReadCells {
    pub(super) const fn all(names: &'static [&'static str]) -> Self {
        Self {
            names,
            read: ColumnSet::ALL,
        }
    }
}

impl<'de> ReadObject<'de> for ReadCells {
    type Value = Cells<'de>;

    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let names = self.names;
        let mut values: [Cell<'de>; MAX_COLUMNS] = Default::default();
        let (mut extra, mut duplicate, mut expected) = (false, None, 0);
        while let Some(found) = map.next_key_seed(NameIn { names, expected })? {
            let Some(column) = found else {
                extra = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            expected = column + 1;
            if !self.read.has(column) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let cell = values
                .get_mut(column)
                .ok_or_else(|| A::Error::custom("more columns than can be read"))?;
            if !matches!(cell, Cell::Missing) {
                duplicate = Some(names[column]);
            }
            *cell = map.next_value()?;
        }
        Ok(Cells {
            names,
            values,
            extra,
            duplicate,
        })
    }
}
