//! The user whose rights a server has where fanout runs as root. Servers listen
//! on ports that every local user can reach and can write files (Redis by
//! `CONFIG SET dir`, Connect by a connector, Postgres by `COPY`), so none of
//! them ever has root's rights.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Kind},
    stack::{
        files,
        home::{ROOT_CACHE, ROOT_HOME},
    },
};

/// Users that root's rights are dropped to, the first that exists.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Why a server cannot run as another user.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("{service} is never run as root, and this machine has no user {}", CANDIDATES.join(" or "))]
    NoUser { service: String },
    #[error("{service} runs as user {user}, who cannot reach its {what}: {} is closed", closed.display())]
    Closed {
        service: String,
        user: String,
        what: Needed,
        closed: PathBuf,
    },
    #[error("{} cannot be given to user {user}", path.display())]
    Chown {
        path: PathBuf,
        user: String,
        #[source]
        source: io::Error,
    },
}

/// What a server has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Below the home.
    Data,
    /// In the cache.
    Install,
    /// Wherever the machine has it.
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

impl Failure for AccountError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoUser { .. } => "no_unprivileged_user",
            Self::Closed { .. } => "folder_closed",
            Self::Chown { .. } => "chown",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoUser { .. } => Some("useradd --system postgres".to_owned()),
            Self::Closed { what, closed, .. } => Some(remedy(*what, closed)),
            Self::Chown { .. } => Some(
                "name a folder on a disk with owners: FANOUT_HOME=/var/lib/fanout fanout up"
                    .to_owned(),
            ),
        }
    }
}

/// Opens root's usual folder where that is what is closed, else goes there.
fn remedy(what: Needed, closed: &Path) -> String {
    let (usual, instead) = match what {
        Needed::Data => (ROOT_HOME, format!("FANOUT_HOME={ROOT_HOME} fanout up")),
        Needed::Install => (ROOT_CACHE, format!("FANOUT_CACHE={ROOT_CACHE} fanout up")),
        Needed::Program => ("/usr/bin", "PATH=/usr/bin:$PATH fanout up".to_owned()),
    };
    let usual = Path::new(usual);
    if closed.starts_with(usual) || usual.starts_with(closed) {
        format!("chmod 755 {}", closed.display())
    } else {
        instead
    }
}

/// Whom to run `service` as; none where fanout is not root and it simply runs
/// as the same user.
///
/// # Errors
/// When fanout is root and there is no user to drop to.
pub fn unprivileged(service: &str) -> Result<Option<Account>, AccountError> {
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
        .ok_or_else(|| AccountError::NoUser {
            service: service.to_owned(),
        })
}

impl Account {
    /// Checks that the user may pass through every folder above `path`, those
    /// that exist.
    ///
    /// # Errors
    /// Names the outermost folder that is closed.
    pub fn check_reach(
        &self,
        service: &str,
        what: Needed,
        path: &Path,
    ) -> Result<(), AccountError> {
        match self.closed(path) {
            Some(closed) => Err(AccountError::Closed {
                service: service.to_owned(),
                user: self.name.clone(),
                what,
                closed,
            }),
            None => Ok(()),
        }
    }

    /// The outermost folder above `path`, or above what it is a link to, that
    /// the user may not pass through.
    #[must_use]
    pub fn closed(&self, path: &Path) -> Option<PathBuf> {
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

    /// Gives the user a folder with all that is in it, where it is not theirs:
    /// the data of a server that an earlier version ran as root. The folder
    /// itself comes last, so that nobody but root can change anything in it
    /// until all of it is done, and an interrupted attempt is made again.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn take_over(&self, folder: &Path) -> Result<(), AccountError> {
        if !self.lacks(folder) {
            return Ok(());
        }
        // The operator may have moved it to another disk and left a link.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        self.give(&folder).map_err(|source| AccountError::Chown {
            path: folder,
            user: self.name.clone(),
            source,
        })
    }

    /// Follows no link below `folder`.
    fn give(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.give(&entry.path())?;
            } else {
                lchown(entry.path(), Some(self.uid), Some(self.gid))?;
            }
        }
        lchown(folder, Some(self.uid), Some(self.gid))
    }

    /// Whether a folder is there and another user's.
    #[must_use]
    pub fn lacks(&self, folder: &Path) -> bool {
        fs::metadata(folder).is_ok_and(|found| found.uid() != self.uid)
    }

    /// Makes a new folder that is the user's.
    ///
    /// # Errors
    /// When something is there already, or the system does not let us.
    pub fn new_folder(&self, path: &Path) -> Result<(), AccountError> {
        files::given_folder(path, self.uid, self.gid).map_err(|source| AccountError::Chown {
            path: path.to_owned(),
            user: self.name.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn the_folder_that_is_closed_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).expect("made");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 4_000_000_000,
            gid: 4_000_000_000,
        };
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
        };
        open(folder.path(), 0o755);
        open(&closed, 0o700);
        let error = stranger
            .check_reach("postgres", Needed::Data, &closed.join("data"))
            .expect_err("closed");
        assert!(error.to_string().ends_with("closed is closed"), "{error}");
        assert_eq!(
            error.hint().as_deref(),
            Some("FANOUT_HOME=/var/lib/fanout fanout up")
        );
        // What is reached by a link has to be open where it really is.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(closed.join("bin"), &link).expect("linked");
        fs::create_dir(closed.join("bin")).expect("made");
        assert_eq!(
            stranger.closed(&link),
            Some(closed.canonicalize().expect("there"))
        );
        open(&closed, 0o711);
        assert_eq!(stranger.closed(&link), None);
        stranger
            .check_reach("postgres", Needed::Data, &closed.join("data"))
            .expect("open");
    }

    #[test]
    fn data_of_the_same_user_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("inner")).expect("made");
        fs::write(folder.path().join("inner/file"), "x").expect("written");
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).expect("linked");
        let own = fs::metadata(folder.path()).expect("there");
        let me = Account {
            name: "me".to_owned(),
            uid: own.uid(),
            gid: own.gid(),
        };
        assert!(!me.lacks(folder.path()));
        me.take_over(folder.path()).expect("nothing to do");
        assert!(!me.lacks(&folder.path().join("nothing")));
    }

    #[test]
    fn data_that_was_roots_is_handed_over_whole_and_links_are_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let outside = folder.path().join("outside");
        fs::create_dir_all(data.join("inner")).expect("made");
        fs::write(data.join("inner/file"), "x").expect("written");
        fs::write(&outside, "x").expect("written");
        std::os::unix::fs::symlink(&outside, data.join("link")).expect("linked");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 65_533,
            gid: 65_533,
        };
        assert!(stranger.lacks(&data));
        stranger.take_over(&data).expect("given");
        let owner = |path: &Path| fs::symlink_metadata(path).expect("there").uid();
        for name in ["", "inner", "inner/file", "link"] {
            assert_eq!(owner(&data.join(name)), 65_533, "{name}");
        }
        assert_eq!(owner(&outside), 0);
    }

    #[test]
    fn the_usual_home_is_opened_rather_than_recommended() {
        let opens = |closed| remedy(Needed::Data, Path::new(closed));
        assert_eq!(opens("/var/lib/fanout"), "chmod 755 /var/lib/fanout");
        assert_eq!(opens("/var/lib/fanout/p"), "chmod 755 /var/lib/fanout/p");
        assert_eq!(opens("/var/lib"), "chmod 755 /var/lib");
        assert_eq!(
            opens("/var/lib/fan"),
            "FANOUT_HOME=/var/lib/fanout fanout up"
        );
    }
}
