//! Virtual environments of Python: with which interpreter one can be made, and
//! whether one that was made still works.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{account::Account, environment, programs::Missing};

/// Fails where there are no modules to make an environment with: Debian ships
/// Python without them. Names the interpreter and its library, wherever a
/// wrapper like pyenv's leads.
const SELF_PORTRAIT: &str = "import venv, ensurepip, os, sys; \
    print(os.path.realpath(sys.executable)); print(os.path.dirname(os.__file__))";

/// Why no Python of this machine will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    NotThere,
    MakesNoEnvironments,
    /// For the user that the environment is run as.
    Closed {
        user: String,
        closed: PathBuf,
    },
}

impl Unfit {
    /// What to install instead.
    #[must_use]
    pub fn missing(self, wanted_by: String) -> Missing {
        let (problem, debian) = match self {
            Self::NotThere => ("is not there".to_owned(), "python3 python3-venv"),
            Self::MakesNoEnvironments => (
                "cannot make virtual environments".to_owned(),
                "python3-venv",
            ),
            Self::Closed { user, closed } => (
                format!(
                    "cannot be run by user {user}: {} is closed",
                    closed.display()
                ),
                "python3 python3-venv",
            ),
        };
        Missing {
            program: "python3".to_owned(),
            problem,
            wanted_by,
            debian: debian.to_owned(),
        }
    }
}

/// The first Python of PATH that makes environments which `account`, where
/// fanout is root, can run. An environment is little more than a link to it.
///
/// # Errors
/// What is wrong with the first of those that are there.
pub fn find(account: Option<&Account>) -> Result<PathBuf, Unfit> {
    find_in(&env::var_os("PATH").unwrap_or_default(), account)
}

fn find_in(path: &OsStr, account: Option<&Account>) -> Result<PathBuf, Unfit> {
    let mut first = None;
    for folder in env::split_paths(path) {
        let python = folder.join("python3");
        if !python.is_file() {
            continue;
        }
        match check(&python, account) {
            Ok(()) => return Ok(python),
            Err(unfit) => first = first.or(Some(unfit)),
        }
    }
    Err(first.unwrap_or(Unfit::NotThere))
}

fn check(python: &Path, account: Option<&Account>) -> Result<(), Unfit> {
    let said = environment::command(python)
        .args(["-c", SELF_PORTRAIT])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|said| said.status.success())
        .ok_or(Unfit::MakesNoEnvironments)?;
    let Some(account) = account else {
        return Ok(());
    };
    let said = String::from_utf8_lossy(&said.stdout);
    // What is in these folders is what has to be reached.
    let mut places = said.lines().map(|line| Path::new(line).join("x"));
    match places.find_map(|place| account.closed(&place)) {
        Some(closed) => Err(Unfit::Closed {
            user: account.name.clone(),
            closed,
        }),
        None => Ok(()),
    }
}

/// Whether the environment in `folder` works, for `account` where fanout is
/// root: its interpreter is a link to the system's, and looks for its packages
/// in a folder of its own version.
#[must_use]
pub fn works(folder: &Path, account: Option<&Account>) -> bool {
    let python = folder.join("bin/python3");
    if account.is_some_and(|account| account.closed(&python).is_some()) {
        return false;
    }
    let said = environment::command(&python)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let version = said
        .ok()
        .filter(|said| said.status.success())
        .and_then(|said| version(&String::from_utf8_lossy(&said.stdout)));
    version.is_some_and(|version| folder.join("lib").join(version).is_dir())
}

/// `Python 3.11.2` → `python3.11`.
fn version(said: &str) -> Option<String> {
    let mut parts = said.strip_prefix("Python ")?.trim().split('.');
    Some(format!("python{}.{}", parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn an_environment_of_another_version_or_without_its_python_does_not_work() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let python = folder.path().join("bin/python3");
        fs::create_dir_all(folder.path().join("bin")).expect("made");
        fs::create_dir_all(folder.path().join("lib/python3.11")).expect("made");
        let becomes = |version: &str| {
            let _ = fs::remove_file(&python);
            fs::write(&python, format!("#!/bin/sh\necho Python {version}\n")).expect("written");
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("changed");
        };
        becomes("3.11.2");
        assert!(works(folder.path(), None));
        becomes("3.13.0");
        assert!(!works(folder.path(), None));
        fs::remove_file(&python).expect("removed");
        std::os::unix::fs::symlink("/nowhere/python3", &python).expect("linked");
        assert!(!works(folder.path(), None));
    }

    /// A Python that says it is at `place`, or fails.
    fn interpreter(folder: &Path, place: Option<&Path>) -> PathBuf {
        fs::create_dir_all(folder).expect("made");
        let python = folder.join("python3");
        let script = place.map_or_else(
            || "#!/bin/sh\nexit 1\n".to_owned(),
            |place| format!("#!/bin/sh\necho {0}/python3; echo {0}\n", place.display()),
        );
        fs::write(&python, script).expect("written");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("changed");
        python
    }

    #[test]
    fn a_python_that_the_account_cannot_reach_is_passed_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        let [bare, closed, open] = ["bare", "closed", "open"].map(|name| folder.path().join(name));
        interpreter(&bare, None);
        let own = interpreter(&closed, Some(&closed));
        let shared = interpreter(&open, Some(&open));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("changed");
        let path = |folders: &[&PathBuf]| env::join_paths(folders).expect("a path");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 4_000_000_000,
            gid: 4_000_000_000,
        };
        let all = path(&[&bare, &closed, &open]);
        assert_eq!(find_in(&all, None), Ok(own));
        assert_eq!(find_in(&all, Some(&stranger)), Ok(shared));
        assert_eq!(
            find_in(&path(&[&closed]), Some(&stranger)),
            Err(Unfit::Closed {
                user: "stranger".to_owned(),
                closed: closed.clone(),
            })
        );
        assert_eq!(
            find_in(&path(&[&bare]), None),
            Err(Unfit::MakesNoEnvironments)
        );
        assert_eq!(find_in(OsStr::new("/nowhere"), None), Err(Unfit::NotThere));
    }
}
