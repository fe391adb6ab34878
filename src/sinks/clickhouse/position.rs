//! A record's place in the log, as rows have it.

use crate::{engagement::version::Position, runtime::Fault};

/// A place in the log; one beyond 2^48 has never been.
pub(super) fn position(generation: u16, offset: i64) -> Result<Position, Fault> {
    Position::new(generation, offset)
        .map_err(|error| Fault::halt("position", error.to_string(), "report this as a bug"))
}
