//! Locks that serialise changes of a project. A file lock is released when its
//! process exits, even if it is killed.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    files,
    home::{Home, OTHER_HOME, ProjectDir},
};
use crate::failure::{Error, Kind};

/// How long to wait for another `up` that is choosing ports.
const HOME_TIMEOUT: Duration = Duration::from_secs(30);

/// A lock that is released on drop.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Returns the error for a lock that another process holds.
fn held(code: &'static str, message: String) -> Error {
    Error::new(Kind::Refused, code, message)
        .with_hint("wait until it finishes, then run the command again")
}

/// Returns the error for a lock file that cannot be used.
fn unreachable(path: &Path, source: io::Error) -> Error {
    let message = format!("cannot lock {}", path.display());
    Error::new(Kind::Environment, "lock_unreachable", message)
        .with_hint(OTHER_HOME)
        .caused_by(source)
}

impl Lock {
    /// Locks a project for a change, without waiting.
    ///
    /// # Errors
    /// If another process is changing the project (the error names it), or the
    /// folder cannot be created.
    pub fn project(dir: &ProjectDir) -> Result<Self, Error> {
        let path = dir.lock();
        match dir.create().and_then(|()| Self::try_at(&path)) {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(holder)) => {
                let project = dir.path().file_name().unwrap_or_default();
                let project = project.to_string_lossy();
                Err(held(
                    "project_locked",
                    format!("project {project} is being changed by {holder}"),
                ))
            }
            Err(source) => Err(unreachable(&path, source)),
        }
    }

    /// Locks the home while a project chooses its ports, so that no two
    /// projects choose the same ones. Waits for the current holder.
    ///
    /// # Errors
    /// If the current holder takes too long (the error names it), or the file
    /// cannot be created.
    pub async fn home(home: &Home) -> Result<Self, Error> {
        // A project name cannot start with a dot.
        let path = home.path().join(".ports.lock");
        let started = Instant::now();
        loop {
            match home.create().and_then(|()| Self::try_at(&path)) {
                Ok(Ok(lock)) => return Ok(lock),
                Ok(Err(_)) if started.elapsed() < HOME_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(Err(holder)) => {
                    let path = path.display();
                    return Err(held(
                        "home_locked",
                        format!("{path} is locked by {holder}, which is choosing its ports"),
                    ));
                }
                Err(source) => return Err(unreachable(&path, source)),
            }
        }
    }

    /// Tries to lock a file, creating it and its folder. The inner error names
    /// the holder.
    ///
    /// # Errors
    /// If the file cannot be created or opened.
    pub fn try_at(path: &Path) -> io::Result<Result<Self, String>> {
        if let Some(folder) = path.parent() {
            files::shared_folder(folder)?;
        }
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = files::open(path, &mut options)?;
            match file.try_lock() {
                Ok(()) if !is_at(&file, path) => {}
                Ok(()) => {
                    file.set_len(0)?;
                    write!(file, "{}", std::process::id())?;
                    return Ok(Ok(Self { _file: file }));
                }
                Err(TryLockError::WouldBlock) => return Ok(Err(holder(&mut file))),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

/// Returns whether the open file is still the one at `path`: `reset` removes
/// it.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(current)) => (open.dev(), open.ino()) == (current.dev(), current.ino()),
        _ => false,
    }
}

/// Returns the holder as `pid 4806`, which the holder wrote into the file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => format!("pid {}", text.trim()),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::project::Project, failure::Failure as _, stack::Home};

    #[test]
    fn a_second_lock_names_the_holder_and_dropping_the_first_releases_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        let first = Lock::project(&dir).expect("the lock is free");
        let error = Lock::project(&dir).expect_err("the lock is held");
        assert_eq!(
            error.to_string(),
            format!(
                "project fanout is being changed by pid {}",
                std::process::id()
            )
        );
        assert_eq!(error.kind(), Kind::Refused);
        drop(first);
        Lock::project(&dir).expect("free again");
    }

    #[tokio::test]
    async fn locking_the_home_waits_for_the_holder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(folder.path());
        let first = Lock::home(&home).await.expect("the lock is free");
        let second = tokio::spawn({
            let home = home.clone();
            async move { Lock::home(&home).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!second.is_finished());
        drop(first);
        second.await.expect("no panic").expect("free again");
    }
}
