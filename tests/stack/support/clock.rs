//! The clock of one process, set while the process runs.

use std::{fs, time::Duration};

use tempfile::TempDir;

/// A clock that is right at first.
#[derive(Debug)]
pub struct Clock {
    /// Holds the file that `FANOUT_CLOCK_FILE` names.
    folder: TempDir,
}

impl Clock {
    pub fn new() -> Self {
        let clock = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        clock.set(Duration::ZERO);
        clock
    }

    /// The value of `FANOUT_CLOCK_FILE`.
    pub fn file(&self) -> String {
        let path = self.folder.path().join("clock");
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Sets it so far ahead of the machine's.
    pub fn set(&self, ahead: Duration) {
        let beside = self.folder.path().join("clock.new");
        fs::write(&beside, ahead.as_millis().to_string()).expect("written");
        fs::rename(&beside, self.file()).expect("in its place");
    }
}
