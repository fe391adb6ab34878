//! Where fanout keeps what: one folder a project below the home, and a cache
//! of downloads that all projects share.
//!
//! ```text
//! <home>/<project>/state.json       what `up` decided: runtime, ports, endpoints
//!                  lock             held by whoever changes the project
//!                  data/<service>/  what the server keeps
//!                  conf/<service>/  its files, written anew before each start
//!                  logs/<service>.log, and earlier ones in .log.1, .log.2, …
//!                  dead-letters.json  dead letters that `status` has counted
//!                  tmp/             temporary files of commands
//!                  run/<service>.…  its process
//!                  run/<service>.log-lock  held by the writer of its log
//!       .ports.lock                held while a project chooses its ports
//! <cache>/native/<install>-<version>/   all that servers run from
//! ```
//!
//! One folder, so that `reset` removes one folder. All of it is its owner's
//! alone: [`super::files`] says which modes that takes.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use nix::unistd::{User, geteuid};

use super::files;
use crate::{
    failure::{Failure, Kind},
    project::Project,
};

/// Root's home by default.
pub(super) const ROOT_HOME: &str = "/var/lib/fanout";

/// Root's cache by default.
pub(super) const ROOT_CACHE: &str = "/var/cache/fanout";

/// The folder of all projects of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

/// The folder of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectDir(PathBuf);

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used", path.display())]
pub struct HomeError {
    path: PathBuf,
    /// Names another.
    variable: &'static str,
    #[source]
    source: io::Error,
}

impl Failure for HomeError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        "folder_untrusted"
    }

    fn hint(&self) -> Option<String> {
        Some(format!(
            "name a folder of your own: {}=<folder> fanout …",
            self.variable
        ))
    }
}

impl Home {
    /// `$FANOUT_HOME`; else for root `/var/lib/fanout`, which a server that
    /// drops root's rights can reach; else `$XDG_STATE_HOME/fanout`, by default
    /// `~/.local/state/fanout`.
    ///
    /// # Errors
    /// When it is there and another user's, or others may write into it.
    pub fn from_env() -> Result<Self, HomeError> {
        const VARIABLE: &str = "FANOUT_HOME";
        let path = match folder(VARIABLE) {
            Some(path) => path,
            None if geteuid().is_root() => PathBuf::from(ROOT_HOME),
            None => match folder("XDG_STATE_HOME") {
                Some(state) => state.join("fanout"),
                None => user_home(VARIABLE)?.join(".local/state/fanout"),
            },
        };
        trusted(absolute(&path), VARIABLE).map(Self)
    }

    /// Makes it, where it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or is not to be trusted.
    pub(super) fn make(&self) -> io::Result<()> {
        if !self.0.exists() {
            if let Some(above) = self.0.parent() {
                files::shared_folder(above)?;
            }
            return files::own_folder(&self.0, files::passable());
        }
        files::check_folder(&self.0)
    }

    /// A home at this place.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(absolute(path))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of `project`, whether it is there or not.
    #[must_use]
    pub fn project(&self, project: &Project) -> ProjectDir {
        ProjectDir(self.0.join(project.as_str()))
    }
}

/// `$FANOUT_CACHE`; else for root `/var/cache/fanout`, from which a server that
/// drops root's rights can run; else `$XDG_CACHE_HOME/fanout`, by default
/// `~/.cache/fanout`.
///
/// # Errors
/// When it is there and another user's, or others may write into it.
pub fn cache_from_env() -> Result<PathBuf, HomeError> {
    const VARIABLE: &str = "FANOUT_CACHE";
    let path = match folder(VARIABLE) {
        Some(path) => path,
        None if geteuid().is_root() => PathBuf::from(ROOT_CACHE),
        None => match folder("XDG_CACHE_HOME") {
            Some(cache) => cache.join("fanout"),
            None => user_home(VARIABLE)?.join(".cache/fanout"),
        },
    };
    trusted(absolute(&path), VARIABLE)
}

fn trusted(path: PathBuf, variable: &'static str) -> Result<PathBuf, HomeError> {
    match files::check_folder(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(HomeError {
            path,
            variable,
            source,
        }),
    }
}

/// The folder that an environment variable names; empty is unset.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The user's home, by HOME or by the system's list of users. Who has none gets
/// a folder of their own among the temporary files, where everybody may make
/// one of that name: it has to be theirs alone.
fn user_home(variable: &'static str) -> Result<PathBuf, HomeError> {
    let listed = || Some(User::from_uid(geteuid()).ok()??.dir);
    let homes = [env::home_dir(), listed()];
    let mut homes = homes.into_iter().flatten();
    if let Some(home) = homes.find(|home| home.is_absolute() && home.is_dir()) {
        return Ok(home);
    }
    let path = env::temp_dir().join(format!("fanout-{}", geteuid()));
    match files::own_folder(&path, 0o700) {
        Ok(()) => Ok(path),
        Err(source) => Err(HomeError {
            path,
            variable,
            source,
        }),
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

    /// Makes it and the home above it, where they are not there.
    ///
    /// # Errors
    /// When one cannot be made, or is not to be trusted.
    pub(super) fn make(&self) -> io::Result<()> {
        if let Some(home) = self.0.parent() {
            Home::at(home).make()?;
        }
        files::own_folder(&self.0, files::passable())
    }

    /// What `up` decided.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Held by whoever changes the project.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Below this is what the servers keep.
    #[must_use]
    pub fn all_data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What a service keeps. Data of one variant is never opened by another.
    #[must_use]
    pub fn data(&self, service: &str, variant: &str) -> PathBuf {
        let name = if service == variant {
            service.to_owned()
        } else {
            format!("{service}-{variant}")
        };
        self.all_data().join(name)
    }

    /// A service's files, secrets among them.
    #[must_use]
    pub fn conf(&self, service: &str) -> PathBuf {
        self.0.join("conf").join(service)
    }

    /// What a service says.
    #[must_use]
    pub fn log(&self, service: &str) -> PathBuf {
        self.0.join("logs").join(format!("{service}.log"))
    }

    /// Held by the process that writes a service's log.
    #[must_use]
    pub fn log_lock(&self, service: &str) -> PathBuf {
        self.0.join("run").join(format!("{service}.log-lock"))
    }

    /// Temporary files of commands. They have no names while they are used.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// The same folder, made where it is not there. It is its owner's alone.
    ///
    /// # Errors
    /// When it cannot be made, or is not to be trusted.
    pub fn make_temporary(&self) -> io::Result<PathBuf> {
        let folder = self.temporary();
        self.make()?;
        files::own_folder(&folder, 0o700)?;
        Ok(folder)
    }

    /// What is known of a service's process.
    #[must_use]
    pub fn record(&self, service: &str) -> PathBuf {
        self.0.join("run").join(format!("{service}.json"))
    }

    /// Held open by a service's process, and by all that it starts.
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_the_owners_and_a_home_that_was_there_stays_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(&folder.path().join("a/home"));
        let project = home.project(&Project::default());
        project.make().expect("made");
        assert_eq!(mode(home.path()), files::passable());
        assert_eq!(mode(project.path()), files::passable());
        for path in [home.path(), project.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("changed");
        }
        project.make().expect("there already");
        assert_eq!(mode(home.path()), 0o755);
        assert_eq!(mode(project.path()), files::passable());
    }

    #[test]
    fn a_home_that_others_may_change_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("changed");
        let error = trusted(folder.path().to_owned(), "FANOUT_HOME").expect_err("open to all");
        assert_eq!(error.kind(), Kind::Environment);
        assert_eq!(
            error.hint().as_deref(),
            Some("name a folder of your own: FANOUT_HOME=<folder> fanout …")
        );
        Home::at(folder.path()).make().expect_err("open to all");
    }
}
