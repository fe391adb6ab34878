//! Temporary files of commands: in the project's own folder, on the disk that
//! the operator chose for it. The system's folder may be small, or in memory.
//!
//! A file has no name while it is used, so it is gone with its process however
//! that ends. Where the file system cannot do without a name for a moment, one
//! that a kill left behind is removed by the next command.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::stack::ProjectDir;

/// A file has a name for a moment at most: one of this age is left over.
const LEFT_OVER: Duration = Duration::from_secs(60);

/// Where a command may put what does not fit into memory.
#[derive(Debug, Clone)]
pub struct Scratch {
    dir: ProjectDir,
}

impl Scratch {
    /// In the project's folder. Nothing is created before the first file.
    #[must_use]
    pub fn of(dir: ProjectDir) -> Self {
        Self { dir }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.temporary()
    }

    /// A new, empty file.
    ///
    /// # Errors
    /// When the folder or the file cannot be created.
    pub fn file(&self) -> io::Result<File> {
        self.try_file().map_err(|error| {
            let folder = self.folder();
            io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
        })
    }

    fn try_file(&self) -> io::Result<File> {
        let folder = self.dir.make_temporary()?;
        sweep(&folder);
        tempfile::tempfile_in(folder)
    }
}

/// Removes what is left over. What cannot be removed does no harm.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let left_over = entry.metadata().is_ok_and(|found| {
            let age = found.modified().map(|modified| modified.elapsed());
            found.is_file() && age.is_ok_and(|age| age.is_ok_and(|age| age > LEFT_OVER))
        });
        if left_over {
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
    fn a_file_is_the_projects_and_leaves_nothing_behind() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let names = || {
            let entries = fs::read_dir(scratch.folder()).expect("the folder");
            entries.count()
        };
        let mut file = scratch.file().expect("a file");
        file.write_all(b"kept while it is open").expect("written");
        assert_eq!(names(), 0);
        let mode = fs::metadata(scratch.folder()).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        let old = SystemTime::now() - 2 * LEFT_OVER;
        for (name, time) in [(".tmpOld", old), (".tmpNew", SystemTime::now())] {
            let file = File::create(scratch.folder().join(name)).expect("made");
            file.set_modified(time).expect("aged");
        }
        let _file = scratch.file().expect("a file");
        assert!(!scratch.folder().join(".tmpOld").exists());
        assert!(scratch.folder().join(".tmpNew").exists());
    }
}
