//! Temporary files of commands. They are in the project's folder, on the disk that the
//! operator chose for it, because the system's temporary folder may be small or in
//! memory.
//!
//! A file has no name while it is used, so it disappears with its process, however the
//! process ends. On file systems that need a name for a moment, a killed process can
//! leave a file behind; the next command removes it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::stack::ProjectDir;

/// A file has a name only for a moment, so a file of this age was left behind.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// Folder for the temporary files of a command.
#[derive(Debug, Clone)]
pub struct Scratch {
    dir: ProjectDir,
}

impl Scratch {
    /// Uses the project's folder. Nothing is created before the first file.
    #[must_use]
    pub fn of(dir: ProjectDir) -> Self {
        Self { dir }
    }

    /// Returns the folder of the files.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.temporary()
    }

    /// Creates an empty file.
    ///
    /// # Errors
    /// If the folder or the file cannot be created.
    pub fn file(&self) -> io::Result<File> {
        self.try_file().map_err(|error| {
            let folder = self.folder();
            io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
        })
    }

    fn try_file(&self) -> io::Result<File> {
        let folder = self.dir.make_temporary()?;
        remove_stale(&folder);
        tempfile::tempfile_in(folder)
    }
}

/// Removes stale files. A file that cannot be removed does no harm.
fn remove_stale(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let is_stale = entry.metadata().is_ok_and(|metadata| {
            let age = metadata.modified().map(|modified| modified.elapsed());
            metadata.is_file() && age.is_ok_and(|age| age.is_ok_and(|age| age > STALE_AFTER))
        });
        if is_stale {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _, time::SystemTime};

    use super::*;
    use crate::{config::project::Project, stack::Home};

    #[test]
    fn a_file_is_private_and_leaves_nothing_behind() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let count_files = || {
            let entries = fs::read_dir(scratch.folder()).expect("the folder");
            entries.count()
        };
        let mut file = scratch.file().expect("a file");
        file.write_all(b"kept while it is open")
            .expect("write the file");
        assert_eq!(count_files(), 0);
        let mode = fs::metadata(scratch.folder())
            .expect("read its metadata")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        let old = SystemTime::now() - 2 * STALE_AFTER;
        for (name, time) in [(".tmpOld", old), (".tmpNew", SystemTime::now())] {
            let file = File::create(scratch.folder().join(name)).expect("create a file");
            file.set_modified(time).expect("set its modification time");
        }
        let _file = scratch.file().expect("a file");
        assert!(!scratch.folder().join(".tmpOld").exists());
        assert!(scratch.folder().join(".tmpNew").exists());
    }
}
