//! One change of a project at a time: a file lock that ends with its holder,
//! however the holder ends.

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

/// How long another `up` may take to choose its ports.
const HOME_PATIENCE: Duration = Duration::from_secs(30);

/// Held for as long as this value lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("project {project} is being changed by {holder}")]
    Held { project: String, holder: String },
    #[error("{} is held by {holder}, which chooses its ports", path.display())]
    HomeHeld { path: PathBuf, holder: String },
    #[error("{} cannot be locked", path.display())]
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
                "wait until it is done, then run the command again".to_owned()
            }
            Self::File { .. } => {
                "name a folder of your own: FANOUT_HOME=<folder> fanout …".to_owned()
            }
        })
    }
}

impl Lock {
    /// Locks a project for a change; never waits.
    ///
    /// # Errors
    /// When another process changes it, which is named, or the folder cannot
    /// be made.
    pub fn project(dir: &ProjectDir) -> Result<Self, LockError> {
        let path = dir.lock();
        match dir.make().and_then(|()| Self::try_at(&path)) {
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

    /// Locks the home while a project chooses its ports, so that no two choose
    /// the same. Waits for another.
    ///
    /// # Errors
    /// When another takes too long, which is named, or the file cannot be made.
    pub async fn home(home: &Home) -> Result<Self, LockError> {
        // No project has such a name.
        let path = home.path().join(".ports.lock");
        let started = Instant::now();
        loop {
            match home.make().and_then(|()| Self::try_at(&path)) {
                Ok(Ok(lock)) => return Ok(lock),
                Ok(Err(_)) if started.elapsed() < HOME_PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(Err(holder)) => return Err(LockError::HomeHeld { path, holder }),
                Err(source) => return Err(LockError::File { path, source }),
            }
        }
    }

    /// Tries to lock a file, making it and its folder. The inner error names
    /// the holder.
    ///
    /// # Errors
    /// When the file cannot be made or opened.
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

/// Whether this very file is still the one at `path`: `reset` removes it.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// `pid 4806`, as the holder wrote it.
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
    use crate::{project::Project, stack::Home};

    #[test]
    fn a_second_lock_names_the_holder_and_the_end_of_the_first_frees_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        let first = Lock::project(&dir).expect("free");
        let error = Lock::project(&dir).expect_err("held");
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
    async fn the_home_is_waited_for() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(folder.path());
        let first = Lock::home(&home).await.expect("free");
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
