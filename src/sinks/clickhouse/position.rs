//! Converts a record's offset to the position that rows store in their version.

use crate::{engagement::version::Position, runtime::Fault};

/// Returns the position of a record. Halts for offsets of 2^48 and more, which do not
/// occur in practice.
pub(super) fn position(generation: u16, offset: i64) -> Result<Position, Fault> {
    Position::new(generation, offset)
        .map_err(|error| Fault::halt("position", error.to_string(), "report this as a bug"))
}
