//! The error of a configuration that is refused.

use crate::failure::{Command, Error, Kind};

/// Returns the error with this code and message.
pub(super) fn refused(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, code, message).with_hint(Command::new("config show"))
}
