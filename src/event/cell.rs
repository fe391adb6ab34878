//! The columns of a JSON object, found by name in one pass and kept as they
//! came, so that each can be judged on its own.
//!
//! Knows nothing of tables; what a column has to be is decided above.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// The most columns an object may be asked for.
pub(super) const MAX_COLUMNS: usize = 8;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Cell<'a> {
    #[default]
    Missing,
    Null,
    Bool(bool),
    Integer(i64),
    /// A fraction, an exponent, or beyond `i64`.
    Number(f64),
    /// Borrowed unless the JSON had escapes.
    Text(Cow<'a, str>),
    /// An object or an array, left unread.
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

/// What was found where an object belongs.
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

/// Reads an object, or says what stands in its place.
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

/// Finds a member's name in a list, trying first where it is expected: the
/// connector writes the members in one order.
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

/// A set of columns, by their places in a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnSet(u8);

impl ColumnSet {
    pub(super) const NONE: Self = Self(0);

    /// Every column of the list.
    pub const ALL: Self = Self(u8::MAX);

    /// The columns at these places, each below [`MAX_COLUMNS`].
    pub const fn of(places: &[usize]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < places.len() {
            bits |= 1 << places[next];
            next += 1;
        }
        Self(bits)
    }

    pub(super) const fn has(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }

    pub(super) const fn with(self, place: usize) -> Self {
        Self(self.0 | (1 << place))
    }
}

/// The columns of one object, in the order of `names`.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    pub names: &'static [&'static str],
    /// [`Cell::Missing`] where a column was not read.
    pub values: [Cell<'a>; MAX_COLUMNS],
    /// The object has members that are not among `names`.
    pub extra: bool,
    /// A column that was read and is there twice.
    pub duplicate: Option<&'static str>,
}

impl<'a> Cells<'a> {
    pub(super) fn take(&mut self, column: usize) -> Cell<'a> {
        self.values
            .get_mut(column)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Whether each of these columns is there and holds something.
    pub(super) fn is_whole(&self, never_null: ColumnSet) -> bool {
        let mut cells = self.values.iter().enumerate();
        cells.all(|(place, cell)| {
            !never_null.has(place) || !matches!(cell, Cell::Missing | Cell::Null)
        })
    }

    pub(super) fn get(&self, column: usize) -> &Cell<'a> {
        self.values.get(column).unwrap_or(&Cell::Missing)
    }
}

/// Reads some of the columns of these names, at most [`MAX_COLUMNS`]. The others
/// are known, and skipped whatever they hold.
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
