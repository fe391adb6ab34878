//! The user whose rights a server has where fanout runs as root and the server
//! refuses to.

use std::{
    io,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Kind},
    stack::home::ROOT_HOME,
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
    #[error("{service} refuses to run as root, and this machine has no user {}", CANDIDATES.join(" or "))]
    NoUser { service: String },
    #[error("{service} runs as user {user}, for whom {} is closed", closed.display())]
    Closed {
        service: String,
        user: String,
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
            Self::Closed { closed, .. } => Some(remedy(closed)),
            Self::Chown { .. } => Some(
                "name a folder on a disk with owners: FANOUT_HOME=/var/lib/fanout fanout up"
                    .to_owned(),
            ),
        }
    }
}

/// Opens root's usual home where that is what is closed, else goes there.
fn remedy(closed: &Path) -> String {
    let usual = Path::new(ROOT_HOME);
    if closed.starts_with(usual) || usual.starts_with(closed) {
        format!("chmod 755 {}", closed.display())
    } else {
        format!("FANOUT_HOME={ROOT_HOME} fanout up")
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
    pub fn check_reach(&self, service: &str, path: &Path) -> Result<(), AccountError> {
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        match folders.into_iter().find(|folder| !self.may_pass(folder)) {
            Some(closed) => Err(AccountError::Closed {
                service: service.to_owned(),
                user: self.name.clone(),
                closed: closed.to_owned(),
            }),
            None => Ok(()),
        }
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

    /// Gives the user a file or folder.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn own(&self, path: &Path) -> Result<(), AccountError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(|source| AccountError::Chown {
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
            .check_reach("postgres", &closed.join("data"))
            .expect_err("closed");
        assert!(error.to_string().ends_with("closed is closed"), "{error}");
        assert_eq!(
            error.hint().as_deref(),
            Some("FANOUT_HOME=/var/lib/fanout fanout up")
        );
        open(&closed, 0o711);
        stranger
            .check_reach("postgres", &closed.join("data"))
            .expect("open");
    }

    #[test]
    fn the_usual_home_is_opened_rather_than_recommended() {
        let opens = |closed| remedy(Path::new(closed));
        assert_eq!(opens("/var/lib/fanout"), "chmod 755 /var/lib/fanout");
        assert_eq!(opens("/var/lib/fanout/p"), "chmod 755 /var/lib/fanout/p");
        assert_eq!(opens("/var/lib"), "chmod 755 /var/lib");
        assert_eq!(
            opens("/var/lib/fan"),
            "FANOUT_HOME=/var/lib/fanout fanout up"
        );
    }
}
