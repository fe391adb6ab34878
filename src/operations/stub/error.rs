//! Why the files of the stub cannot be used.

use std::{io, path::PathBuf};

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another stub", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged at byte {at}: {reason}", path.display())]
    Damaged {
        path: PathBuf,
        at: u64,
        reason: &'static str,
    },
}
