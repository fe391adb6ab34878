//! Paths of fanout's files: one folder per project below the home, and a cache
//! of downloads that all projects share.
//!
//! ```text
//! <home>/<project>/state.json       decisions of `up`: runtime, ports, endpoints
//!                  lock             held by the process that changes the project
//!                  data/<service>/  data of the server
//!                  conf/<service>/  its configuration, rewritten before each start
//!                  logs/<service>.log, and earlier ones in .log.1, .log.2, …
//!                  dead-letters.json  dead letters counted by `status`
//!                  tmp/             temporary files of commands
//!                  run/<service>.…  record of its process
//!                  run/<service>.log-lock  held by its log writer
//!       .ports.lock                held while a project chooses its ports
//! <cache>/native/<install>-<version>/   files that servers run from
//! ```
//!
//! A single folder, so that `reset` removes one folder. Only its owner can
//! access it; see [`super::files`] for the modes.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use nix::unistd::{User, geteuid};

use super::files;
use crate::{
    config::project::Project,
    failure::{Error, Kind},
};

/// Default home of root.
pub(super) const ROOT_HOME: &str = "/var/lib/fanout";

/// Default cache of root.
pub(super) const ROOT_CACHE: &str = "/var/cache/fanout";

/// Hint for a home that cannot be used.
pub(super) const OTHER_HOME: &str = "use a folder of your own: FANOUT_HOME=<folder> fanout …";

/// Folder of all projects of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

/// Folder of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectDir(PathBuf);

/// Returns the error for a folder that cannot be used. `variable` selects
/// another one.
fn unusable(path: &Path, variable: &str, source: io::Error) -> Error {
    let message = format!("{} cannot be used", path.display());
    Error::new(Kind::Environment, "folder_untrusted", message)
        .with_hint(format!(
            "use a folder of your own: {variable}=<folder> fanout …"
        ))
        .caused_by(source)
}

impl Home {
    /// Returns `$FANOUT_HOME`. If unset, root gets `/var/lib/fanout`, which a
    /// server without root's rights can reach; other users get
    /// `$XDG_STATE_HOME/fanout`, by default `~/.local/state/fanout`.
    ///
    /// # Errors
    /// If the folder belongs to another user, or others may write to it.
    pub fn from_env() -> Result<Self, Error> {
        const VARIABLE: &str = "FANOUT_HOME";
        let path = match folder(VARIABLE) {
            Some(path) => path,
            None if geteuid().is_root() => PathBuf::from(ROOT_HOME),
            None => match folder("XDG_STATE_HOME") {
                Some(state) => state.join("fanout"),
                None => user_home(VARIABLE)?.join(".local/state/fanout"),
            },
        };
        check_trusted(absolute(&path), VARIABLE).map(Self)
    }

    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// If the folder cannot be created or is not trusted.
    pub(super) fn create(&self) -> io::Result<()> {
        if !self.0.exists() {
            if let Some(above) = self.0.parent() {
                files::shared_folder(above)?;
            }
            return files::own_folder(&self.0, files::passable());
        }
        files::check_folder(&self.0)
    }

    /// Returns the home at this path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(absolute(path))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the folder of `project`, whether it exists or not.
    #[must_use]
    pub fn project(&self, project: &Project) -> ProjectDir {
        ProjectDir(self.0.join(project.as_str()))
    }
}

/// Returns `$FANOUT_CACHE`. If unset, root gets `/var/cache/fanout`, from which
/// a server without root's rights can run; other users get
/// `$XDG_CACHE_HOME/fanout`, by default `~/.cache/fanout`.
///
/// # Errors
/// If the folder belongs to another user, or others may write to it.
pub fn cache_from_env() -> Result<PathBuf, Error> {
    const VARIABLE: &str = "FANOUT_CACHE";
    let path = match folder(VARIABLE) {
        Some(path) => path,
        None if geteuid().is_root() => PathBuf::from(ROOT_CACHE),
        None => match folder("XDG_CACHE_HOME") {
            Some(cache) => cache.join("fanout"),
            None => user_home(VARIABLE)?.join(".cache/fanout"),
        },
    };
    check_trusted(absolute(&path), VARIABLE)
}

fn check_trusted(path: PathBuf, variable: &str) -> Result<PathBuf, Error> {
    match files::check_folder(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(unusable(&path, variable, source)),
    }
}

/// Returns the folder in an environment variable; an empty variable counts as
/// unset.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Returns the user's home folder, from `HOME` or the user database. A user
/// without one gets a folder among the temporary files. Anybody can create a
/// folder of that name there, so it must belong to this user.
fn user_home(variable: &str) -> Result<PathBuf, Error> {
    let listed = || Some(User::from_uid(geteuid()).ok()??.dir);
    let homes = [env::home_dir(), listed()];
    let mut homes = homes.into_iter().flatten();
    if let Some(home) = homes.find(|home| home.is_absolute() && home.is_dir()) {
        return Ok(home);
    }
    let path = env::temp_dir().join(format!("fanout-{}", geteuid()));
    match files::own_folder(&path, 0o700) {
        Ok(()) => Ok(path),
        Err(source) => Err(unusable(&path, variable, source)),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl ProjectDir {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the folder, and the home above it, if they are missing.
    ///
    /// # Errors
    /// If a folder cannot be created or is not trusted.
    pub(super) fn create(&self) -> io::Result<()> {
        if let Some(home) = self.0.parent() {
            Home::at(home).create()?;
        }
        files::own_folder(&self.0, files::passable())
    }

    /// Returns the state file.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Returns the lock file of the project, held by the process that changes
    /// it.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Returns the folder of all services' data.
    #[must_use]
    pub fn all_data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Returns the data folder of a service. Each variant has its own.
    #[must_use]
    pub fn data(&self, service: &str, variant: &str) -> PathBuf {
        let name = if service == variant {
            service.to_owned()
        } else {
            format!("{service}-{variant}")
        };
        self.all_data().join(name)
    }

    /// Returns the folder of a service's configuration files, which may contain
    /// secrets.
    #[must_use]
    pub fn conf(&self, service: &str) -> PathBuf {
        self.0.join("conf").join(service)
    }

    /// Returns the log file of a service.
    #[must_use]
    pub fn log(&self, service: &str) -> PathBuf {
        self.0.join("logs").join(format!("{service}.log"))
    }

    /// Returns the lock file of a service's log writer.
    #[must_use]
    pub fn log_lock(&self, service: &str) -> PathBuf {
        self.0.join("run").join(format!("{service}.log-lock"))
    }

    /// Returns the folder of temporary files. The files have no names while
    /// they are in use.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Creates the folder of temporary files if it is missing, accessible to
    /// its owner only, and returns it.
    ///
    /// # Errors
    /// If the folder cannot be created or is not trusted.
    pub fn make_temporary(&self) -> io::Result<PathBuf> {
        let folder = self.temporary();
        self.create()?;
        files::own_folder(&folder, 0o700)?;
        Ok(folder)
    }

    /// Returns the record of a service's process.
    #[must_use]
    pub fn record(&self, service: &str) -> PathBuf {
        self.0.join("run").join(format!("{service}.json"))
    }

    /// Returns the tether of a service: a file that its process and all child
    /// processes keep open.
    #[must_use]
    pub fn tether(&self, service: &str) -> PathBuf {
        self.0.join("run").join(format!("{service}.tether"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;
    use crate::failure::Failure as _;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path)
            .expect("the file exists")
            .permissions()
            .mode()
            & 0o777
    }

    #[test]
    fn new_folders_are_private_and_an_existing_home_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(&folder.path().join("a/home"));
        let project = home.project(&Project::default());
        project.create().expect("create the folders");
        assert_eq!(mode(home.path()), files::passable());
        assert_eq!(mode(project.path()), files::passable());
        for path in [home.path(), project.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("change the mode");
        }
        project.create().expect("the folders exist");
        assert_eq!(mode(home.path()), 0o755);
        assert_eq!(mode(project.path()), files::passable());
    }

    #[test]
    fn a_home_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("change the mode");
        let error =
            check_trusted(folder.path().to_owned(), "FANOUT_HOME").expect_err("open to all");
        assert_eq!(error.kind(), Kind::Environment);
        assert_eq!(
            error.hint().as_deref(),
            Some("use a folder of your own: FANOUT_HOME=<folder> fanout …")
        );
        Home::at(folder.path()).create().expect_err("open to all");
    }
}
