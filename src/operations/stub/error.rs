//! Errors of the files of the stub.

use std::{io, path::Path};

use crate::failure::{Command, Error, Hint, Kind, Word};

fn another_folder() -> Command {
    let folder = Word::Placeholder("<another folder>");
    Command::new("stub").flag("--data", folder).as_written()
}

/// A file or folder cannot be read or written.
pub(super) fn unusable(path: &Path, source: io::Error) -> Error {
    let message = format!("{} cannot be used", path.display());
    Error::new(Kind::Environment, "stub_data", message)
        .with_hint(another_folder())
        .caused_by(source)
}

/// Another stub uses the file.
pub(super) fn locked(path: &Path) -> Error {
    let message = format!("{} is in use by another stub", path.display());
    Error::new(Kind::Refused, "stub_locked", message).with_hint(another_folder())
}

/// The file is damaged at this byte.
pub(super) fn damaged(path: &Path, at: u64, reason: &str) -> Error {
    let path = path.display();
    let message = format!("{path} is damaged at byte {at}: {reason}");
    let hint = Hint::from("move the folder away: ")
        .command(Command::new("stub").as_written())
        .text(" begins a new one");
    Error::new(Kind::Failed, "stub_damaged", message).with_hint(hint)
}
