//! Where fanout keeps what: one folder a project below the home, and a cache
//! of downloads that all projects share.
//!
//! ```text
//! <home>/<project>/state.json       what `up` decided: runtime, ports, endpoints
//!                  lock             held by whoever changes the project
//!                  data/<service>/  what the server keeps
//!                  conf/<service>/  its files, written anew before each start
//!                  logs/<service>.log
//!                  run/<service>.…  its process
//!       .ports.lock                held while a project chooses its ports
//! <cache>/native/<install>-<version>/   all that servers run from
//! ```
//!
//! One folder, so that `reset` removes one folder.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::project::Project;

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

impl Home {
    /// `$FANOUT_HOME`; else for root `/var/lib/fanout`, which a server that
    /// drops root's rights can reach; else `$XDG_STATE_HOME/fanout`, by default
    /// `~/.local/state/fanout`.
    #[must_use]
    pub fn from_env() -> Self {
        if let Some(path) = folder("FANOUT_HOME") {
            return Self(absolute(&path));
        }
        if nix::unistd::geteuid().is_root() {
            return Self(PathBuf::from(ROOT_HOME));
        }
        let state = folder("XDG_STATE_HOME").unwrap_or_else(|| user_home().join(".local/state"));
        Self(absolute(&state.join("fanout")))
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
#[must_use]
pub fn cache_from_env() -> PathBuf {
    if let Some(path) = folder("FANOUT_CACHE") {
        return absolute(&path);
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from(ROOT_CACHE);
    }
    let cache = folder("XDG_CACHE_HOME").unwrap_or_else(|| user_home().join(".cache"));
    absolute(&cache.join("fanout"))
}

/// The folder that an environment variable names; empty is unset.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A user without a home has one of their own among the temporary files.
fn user_home() -> PathBuf {
    env::home_dir()
        .filter(|home| home.is_dir())
        .unwrap_or_else(|| env::temp_dir().join(format!("fanout-{}", nix::unistd::geteuid())))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Makes a folder and those above it that are not there. They are open to
/// pass through, whatever the umask: a server that drops root's rights has its
/// data below.
pub(super) fn make_passable(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|one| !one.exists()).collect();
    for one in missing.into_iter().rev() {
        match fs::create_dir(one) {
            Ok(()) => fs::set_permissions(one, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ProjectDir {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
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
    use super::*;

    #[test]
    fn what_is_made_is_open_and_what_was_there_stays_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let (home, project) = (folder.path().join("a/home"), folder.path().join("a/home/p"));
        let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
        let made = make_passable(&project);
        nix::sys::stat::umask(umask);
        made.expect("made");
        assert_eq!([mode(&home), mode(&project)], [0o755, 0o755]);
        fs::set_permissions(&home, fs::Permissions::from_mode(0o711)).expect("changed");
        make_passable(&project).expect("there already");
        assert_eq!(mode(&home), 0o711);
    }
}
