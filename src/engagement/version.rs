//! The version of an enriched row: the change of the event and the change of its content from
//! which the row was made. In ClickHouse, the row with the greater version wins.
//!
//! | bits | from the highest bit |
//! |---|---|
//! | 16 | generation of the fact topic |
//! | 48 | offset of the event's change |
//! | 16 | generation of the content topic |
//! | 48 | offset of the content's latest change; both zero if none is known |
//!
//! A generation is the number of a topic's incarnation. Generations count from 1, so zero means
//! "none known", and no position has the value zero. The format is stored and therefore final.

use std::fmt;

const OFFSET_BITS: u32 = 48;
const POSITION_BITS: u32 = 64;

/// The greatest offset of a position.
pub const MAX_OFFSET: i64 = (1 << OFFSET_BITS) - 1;

/// A position in a topic's log, across all incarnations of the topic. Positions in different
/// partitions are not compared, because all changes of a row are in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    generation: u16,
    offset: i64,
}

impl Position {
    /// Returns the position of an offset in a generation.
    ///
    /// # Errors
    /// If the generation is zero, or the offset is negative or greater than [`MAX_OFFSET`].
    pub fn new(generation: u16, offset: i64) -> Result<Self, VersionError> {
        if generation == 0 {
            return Err(VersionError::Generation);
        }
        if !(0..=MAX_OFFSET).contains(&offset) {
            return Err(VersionError::Offset(offset));
        }
        Ok(Self { generation, offset })
    }

    #[must_use]
    pub fn generation(self) -> u16 {
        self.generation
    }

    #[must_use]
    pub fn offset(self) -> i64 {
        self.offset
    }

    /// Returns the position as one number with the same order, as stored in `_content_offset`.
    /// Never zero.
    #[must_use]
    pub fn get(self) -> u64 {
        (u64::from(self.generation) << OFFSET_BITS) | self.offset.cast_unsigned()
    }

    /// Returns the position of a stored number, or `None` for zero.
    ///
    /// # Errors
    /// If the number has an offset without a generation.
    pub fn from_stored(stored: u64) -> Result<Option<Self>, VersionError> {
        if stored == 0 {
            return Ok(None);
        }
        let [g0, g1, o0, o1, o2, o3, o4, o5] = stored.to_be_bytes();
        let generation = u16::from_be_bytes([g0, g1]);
        let offset = i64::from_be_bytes([0, 0, o0, o1, o2, o3, o4, o5]);
        Self::new(generation, offset).map(Some)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.offset)
    }
}

/// The version of an enriched row, as stored in `_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// Returns the version of a row that was made from this change of the event and this latest
    /// change of its content.
    #[must_use]
    pub fn new(fact: Position, content: Option<Position>) -> Self {
        let content = content.map_or(0, Position::get);
        Self((u128::from(fact.get()) << POSITION_BITS) | u128::from(content))
    }

    /// Returns the highest possible version for this change of the event: above every row
    /// made from this change, and below every later change. A prune writes this version.
    #[must_use]
    pub fn last_of(fact: Position) -> Self {
        Self((u128::from(fact.get()) << POSITION_BITS) | u128::from(u64::MAX))
    }

    /// Parses a stored version.
    ///
    /// # Errors
    /// If the number is not a version.
    pub fn from_stored(stored: u128) -> Result<Self, VersionError> {
        let (fact, content) = split(stored);
        Position::from_stored(fact)?.ok_or(VersionError::Generation)?;
        Position::from_stored(content)?;
        Ok(Self(stored))
    }

    /// Returns the number to store.
    #[must_use]
    pub fn get(self) -> u128 {
        self.0
    }

    /// Returns the position of the event's change in the log.
    #[must_use]
    pub fn fact(self) -> Position {
        position(split(self.0).0)
    }

    /// Returns the position of the content's latest change in the log, or `None` if none was
    /// known.
    #[must_use]
    pub fn content(self) -> Option<Position> {
        let (_, content) = split(self.0);
        (content != 0).then(|| position(content))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of the number")]
fn split(stored: u128) -> (u64, u64) {
    ((stored >> POSITION_BITS) as u64, stored as u64)
}

/// Returns the position in one half of a version, which was validated when the version was
/// created.
fn position(half: u64) -> Position {
    let [g0, g1, o0, o1, o2, o3, o4, o5] = half.to_be_bytes();
    Position {
        generation: u16::from_be_bytes([g0, g1]),
        offset: i64::from_be_bytes([0, 0, o0, o1, o2, o3, o4, o5]),
    }
}

/// A number that is not a position in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("a topic's generation is zero; generations count from 1")]
    Generation,
    #[error("offset {0} is not between 0 and {MAX_OFFSET}")]
    Offset(i64),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        let offset = prop_oneof![0..=MAX_OFFSET, 0..=3_i64, (MAX_OFFSET - 2)..=MAX_OFFSET];
        let generation = prop_oneof![1..=3_u16, 1..=u16::MAX];
        (generation, offset)
            .prop_map(|(generation, offset)| Position::new(generation, offset).unwrap())
    }

    #[test]
    fn the_layout_never_changes() {
        let fact = Position::new(1, 2).unwrap();
        let content = Position::new(3, 4).unwrap();
        let version = Version::new(fact, Some(content));
        assert_eq!(version.get(), 0x0001_0000_0000_0002_0003_0000_0000_0004);
        assert_eq!(Version::new(fact, None).get(), 0x0001_0000_0000_0002 << 64);
        assert_eq!(content.get(), 0x0003_0000_0000_0004);
    }

    #[test]
    fn an_invalid_position_is_refused() {
        assert_eq!(Position::new(0, 0), Err(VersionError::Generation));
        assert_eq!(Position::new(1, -1), Err(VersionError::Offset(-1)));
        let beyond = MAX_OFFSET + 1;
        assert_eq!(Position::new(1, beyond), Err(VersionError::Offset(beyond)));
        assert_eq!(Version::from_stored(0), Err(VersionError::Generation));
        assert_eq!(Version::from_stored(1), Err(VersionError::Generation));
        assert_eq!(Position::from_stored(0), Ok(None));
    }

    proptest! {
        #[test]
        fn the_parts_are_recovered_from_a_version(
            fact in positions(),
            content in proptest::option::of(positions()),
        ) {
            let version = Version::new(fact, content);
            prop_assert_eq!(version.fact(), fact);
            prop_assert_eq!(version.content(), content);
            prop_assert_eq!(Version::from_stored(version.get()), Ok(version));
        }

        #[test]
        fn versions_order_by_event_and_then_by_content(
            one in (positions(), proptest::option::of(positions())),
            two in (positions(), proptest::option::of(positions())),
        ) {
            let version = |(fact, content)| Version::new(fact, content);
            prop_assert_eq!(version(one).cmp(&version(two)), one.cmp(&two));
            prop_assert_eq!(
                version(one).get().cmp(&version(two).get()),
                version(one).cmp(&version(two))
            );
        }

        #[test]
        fn the_last_version_of_a_change_is_below_the_next_change(
            fact in positions(),
            content in proptest::option::of(positions()),
            later in positions(),
        ) {
            prop_assert!(Version::last_of(fact) >= Version::new(fact, content));
            if later > fact {
                prop_assert!(Version::last_of(fact) < Version::new(later, None));
            }
        }
    }
}
