//! Locks that serialise changes of a project. A file lock is released when its
//! process exits, even if it is killed.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    files,
    home::{Home, ProjectDir},
};
use crate::failure::{Failure, Kind};

/// How long to wait for another `up` that is choosing ports.
const HOME_TIMEOUT: Duration = Duration::from_secs(30);

/// A lock that is released on drop.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Error while taking a lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("project {project} is being changed by {holder}")]
    Held { project: String, holder: String },
    #[error("{} is locked by {holder}, which is choosing its ports", path.display())]
    HomeHeld { path: PathBuf, holder: String },
    #[error("cannot lock {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Failure for LockError {
    fn kind(&self) -> Kind {
        match self {
            Self::Held { .. } | Self::HomeHeld { .. } => Kind::Refused,
            Self::File { .. } => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Held { .. } => "project_locked",
            Self::HomeHeld { .. } => "home_locked",
            Self::File { .. } => "lock_unreachable",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Held { .. } | Self::HomeHeld { .. } => {
                "wait until it finishes, then run the command again".to_owned()
            }
            Self::File { .. } => {
                "use a folder of your own: FANOUT_HOME=<folder> fanout …".to_owned()
            }
        })
    }
}

impl Lock {
    /// Locks a project for a change, without waiting.
    ///
    /// # Errors
    /// If another process is changing the project (the error names it), or the
    /// folder cannot be created.
    pub fn project(dir: &ProjectDir) -> Result<Self, LockError> {
        let path = dir.lock();
        match dir.create().and_then(|()| Self::try_at(&path)) {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(holder)) => Err(LockError::Held {
                project: dir
                    .path()
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                holder,
            }),
            Err(source) => Err(LockError::File { path, source }),
        }
    }

    /// Locks the home while a project chooses its ports, so that no two
    /// projects choose the same ones. Waits for the current holder.
    ///
    /// # Errors
    /// If the current holder takes too long (the error names it), or the file
    /// cannot be created.
    pub async fn home(home: &Home) -> Result<Self, LockError> {
        // A project name cannot start with a dot.
        let path = home.path().join(".ports.lock");
        let started = Instant::now();
        loop {
            match home.create().and_then(|()| Self::try_at(&path)) {
                Ok(Ok(lock)) => return Ok(lock),
                Ok(Err(_)) if started.elapsed() < HOME_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(Err(holder)) => return Err(LockError::HomeHeld { path, holder }),
                Err(source) => return Err(LockError::File { path, source }),
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
    use crate::{config::project::Project, stack::Home};

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
