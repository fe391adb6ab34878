//! Sets the clock of one process while the process runs.

use std::{fs, time::Duration};

use tempfile::TempDir;

/// A clock, initially correct.
#[derive(Debug)]
pub struct Clock {
    /// Folder of the file that `FANOUT_CLOCK_FILE` points to.
    folder: TempDir,
}

impl Clock {
    pub fn new() -> Self {
        let clock = Self {
            folder: tempfile::tempdir().expect("create a folder"),
        };
        clock.set(Duration::ZERO);
        clock
    }

    /// Returns the value of `FANOUT_CLOCK_FILE`.
    pub fn file(&self) -> String {
        let path = self.folder.path().join("clock");
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Sets the clock ahead of the machine's clock by `ahead`.
    pub fn set(&self, ahead: Duration) {
        let new = self.folder.path().join("clock.new");
        fs::write(&new, ahead.as_millis().to_string()).expect("write the new clock");
        fs::rename(&new, self.file()).expect("replace the clock file");
    }
}
