//! The user of a server's process when fanout itself runs as root. Servers
//! listen on ports that every local user can reach, and can write files: Redis
//! by `CONFIG SET dir`, Connect by a connector, Postgres by `COPY`. Therefore
//! no server ever runs as root.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Command, Error, Hint, Kind},
    stack::{
        files,
        home::{ROOT_CACHE, ROOT_HOME},
    },
};

/// Users that a server may run as instead of root; the first that exists is
/// used.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Files that a server must be able to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Data, below the home.
    Data,
    /// Installed files, in the cache.
    Install,
    /// A program of the machine.
    Program,
}

impl std::fmt::Display for Needed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Data => "data",
            Self::Install => "installed files",
            Self::Program => "program",
        })
    }
}

fn closed_error(service: &str, user: &str, needed: Needed, closed_folder: &Path) -> Error {
    let message = format!(
        "{service} runs as user {user}, which cannot reach its {needed}: {} is not accessible",
        closed_folder.display()
    );
    Error::new(Kind::Environment, "folder_closed", message).with_hint(fix(needed, closed_folder))
}

fn chown_error(path: &Path, user: &str, source: io::Error) -> Error {
    let message = format!("cannot change the owner of {} to {user}", path.display());
    let home = format!("FANOUT_HOME={ROOT_HOME}");
    let hint = Hint::from(format!(
        "use a folder on a disk that supports owners: {home} "
    ));
    Error::new(Kind::Environment, "chown", message)
        .with_hint(hint.command(Command::new("up")))
        .caused_by(source)
}

/// Returns the command that fixes it: opening the folder if it is in root's
/// default folder, otherwise using that folder.
fn fix(needed: Needed, closed_folder: &Path) -> Hint {
    let (default_folder, assignment) = match needed {
        Needed::Data => (ROOT_HOME, format!("FANOUT_HOME={ROOT_HOME}")),
        Needed::Install => (ROOT_CACHE, format!("FANOUT_CACHE={ROOT_CACHE}")),
        Needed::Program => ("/usr/bin", "PATH=/usr/bin:$PATH".to_owned()),
    };
    let default_folder = Path::new(default_folder);
    if closed_folder.starts_with(default_folder) || default_folder.starts_with(closed_folder) {
        format!("chmod 755 {}", closed_folder.display()).into()
    } else {
        Hint::from(assignment + " ").command(Command::new("up"))
    }
}

/// Returns the user to run `service` as; `None` if fanout is not root, so that
/// the service runs as the same user.
///
/// # Errors
/// If fanout is root and none of the users exists.
pub fn unprivileged(service: &str) -> Result<Option<Account>, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    CANDIDATES
        .iter()
        .find_map(|name| nix::unistd::User::from_name(name).ok().flatten())
        .map(|user| {
            Some(Account {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            })
        })
        .ok_or_else(|| {
            let message = format!(
                "{service} must not run as root, and this machine has no user {}",
                CANDIDATES.join(" or ")
            );
            Error::new(Kind::Environment, "no_unprivileged_user", message)
                .with_hint("useradd --system postgres")
        })
}

impl Account {
    /// Checks that the user may pass through every existing folder above
    /// `path`.
    ///
    /// # Errors
    /// Returns the outermost folder that is closed to the user.
    pub fn check_reach(&self, service: &str, needed: Needed, path: &Path) -> Result<(), Error> {
        match self.closed_folder(path) {
            Some(folder) => Err(closed_error(service, &self.name, needed, &folder)),
            None => Ok(()),
        }
    }

    /// Returns the outermost folder above `path`, or above its target if `path`
    /// is a link, that the user may not pass through.
    #[must_use]
    pub fn closed_folder(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok();
        [Some(path), real.as_deref()]
            .into_iter()
            .flatten()
            .find_map(|path| {
                let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
                folders.reverse();
                folders.into_iter().find(|folder| !self.may_pass(folder))
            })
            .map(Path::to_owned)
    }

    fn may_pass(&self, folder: &Path) -> bool {
        let Ok(metadata) = folder.metadata() else {
            return true;
        };
        let bit = if metadata.uid() == self.uid {
            0o100
        } else if metadata.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        metadata.mode() & bit != 0
    }

    /// Makes the user the owner of a folder and its content, if it is not yet:
    /// the data of a server that an earlier version ran as root. The folder
    /// itself changes last, so that only root can change its content until
    /// then, and an interrupted change is repeated.
    ///
    /// # Errors
    /// If the owner cannot be changed.
    pub fn change_owner_of_data(&self, folder: &Path) -> Result<(), Error> {
        if !self.is_owned_by_another(folder) {
            return Ok(());
        }
        // The operator may have moved the folder to another disk and left a
        // link.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        self.change_owner(&folder)
            .map_err(|source| chown_error(&folder, &self.name, source))
    }

    /// Changes the owner recursively, following no links below `folder`.
    fn change_owner(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.change_owner(&entry.path())?;
            } else {
                lchown(entry.path(), Some(self.uid), Some(self.gid))?;
            }
        }
        lchown(folder, Some(self.uid), Some(self.gid))
    }

    /// Returns whether a folder exists and belongs to another user.
    #[must_use]
    pub fn is_owned_by_another(&self, folder: &Path) -> bool {
        fs::metadata(folder).is_ok_and(|found| found.uid() != self.uid)
    }

    /// Creates a new folder that belongs to the user.
    ///
    /// # Errors
    /// If the path exists already, or the owner cannot be changed.
    pub fn create_folder(&self, path: &Path) -> Result<(), Error> {
        files::given_folder(path, self.uid, self.gid)
            .map_err(|source| chown_error(path, &self.name, source))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::failure::Failure as _;

    #[test]
    fn the_closed_folder_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let closed_folder = folder.path().join("closed");
        fs::create_dir(&closed_folder).expect("create the folder");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 4_000_000_000,
            gid: 4_000_000_000,
        };
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("change the mode");
        };
        open(folder.path(), 0o755);
        open(&closed_folder, 0o700);
        let error = stranger
            .check_reach("postgres", Needed::Data, &closed_folder.join("data"))
            .expect_err("closed");
        assert!(
            error.to_string().ends_with("closed is not accessible"),
            "{error}"
        );
        assert_eq!(
            error.hint().as_deref(),
            Some("FANOUT_HOME=/var/lib/fanout fanout up")
        );
        // The target of a link must be reachable too.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(closed_folder.join("bin"), &link).expect("create the link");
        fs::create_dir(closed_folder.join("bin")).expect("create the folder");
        assert_eq!(
            stranger.closed_folder(&link),
            Some(closed_folder.canonicalize().expect("the path exists"))
        );
        open(&closed_folder, 0o711);
        assert_eq!(stranger.closed_folder(&link), None);
        stranger
            .check_reach("postgres", Needed::Data, &closed_folder.join("data"))
            .expect("open");
    }

    #[test]
    fn data_of_the_same_user_is_unchanged() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("inner")).expect("create the folder");
        fs::write(folder.path().join("inner/file"), "x").expect("write the file");
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).expect("create the link");
        let own = fs::metadata(folder.path()).expect("the path exists");
        let me = Account {
            name: "me".to_owned(),
            uid: own.uid(),
            gid: own.gid(),
        };
        assert!(!me.is_owned_by_another(folder.path()));
        me.change_owner_of_data(folder.path())
            .expect("nothing to do");
        assert!(!me.is_owned_by_another(&folder.path().join("nothing")));
    }

    #[test]
    fn the_owner_of_all_data_changes_and_links_are_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            // Only root can change the owner of a file.
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let outside = folder.path().join("outside");
        fs::create_dir_all(data.join("inner")).expect("create the folder");
        fs::write(data.join("inner/file"), "x").expect("write the file");
        fs::write(&outside, "x").expect("write the file");
        std::os::unix::fs::symlink(&outside, data.join("link")).expect("create the link");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 65_533,
            gid: 65_533,
        };
        assert!(stranger.is_owned_by_another(&data));
        stranger
            .change_owner_of_data(&data)
            .expect("change the owner");
        let owner = |path: &Path| fs::symlink_metadata(path).expect("the path exists").uid();
        for name in ["", "inner", "inner/file", "link"] {
            assert_eq!(owner(&data.join(name)), 65_533, "{name}");
        }
        assert_eq!(owner(&outside), 0);
    }

    #[test]
    fn the_default_home_is_opened_instead_of_recommended() {
        let opens = |closed_folder| fix(Needed::Data, Path::new(closed_folder)).to_string();
        assert_eq!(opens("/var/lib/fanout"), "chmod 755 /var/lib/fanout");
        assert_eq!(opens("/var/lib/fanout/p"), "chmod 755 /var/lib/fanout/p");
        assert_eq!(opens("/var/lib"), "chmod 755 /var/lib");
        assert_eq!(
            opens("/var/lib/fan"),
            "FANOUT_HOME=/var/lib/fanout fanout up"
        );
    }
}
