//! Python virtual environments: finding an interpreter that can create one, and
//! checking that an existing one works.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{account::Account, environment, programs::Missing};

/// Script that fails if the modules for virtual environments are missing, as in
/// Debian's default Python. Prints the paths of the real interpreter and its
/// library, even behind a wrapper like pyenv's.
const PRINT_LOCATIONS: &str = "import venv, ensurepip, os, sys; \
    print(os.path.realpath(sys.executable)); print(os.path.dirname(os.__file__))";

/// Problem with the Python interpreters of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PythonProblem {
    NotFound,
    CannotCreateEnvironments,
    /// The user that runs the environment cannot reach the interpreter.
    Closed {
        user: String,
        closed: PathBuf,
    },
}

impl PythonProblem {
    /// Returns the problem as a missing program, with the package to install.
    #[must_use]
    pub fn missing(self, wanted_by: String) -> Missing {
        let (problem, debian) = match self {
            Self::NotFound => ("is missing".to_owned(), "python3 python3-venv"),
            Self::CannotCreateEnvironments => (
                "cannot make virtual environments".to_owned(),
                "python3-venv",
            ),
            Self::Closed { user, closed } => (
                format!(
                    "cannot be run by user {user}: {} is not accessible",
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

/// Returns the first Python on PATH that can create virtual environments and
/// that `account`, if fanout is root, can run. A virtual environment links to
/// its interpreter.
///
/// # Errors
/// If no interpreter is suitable. Returns the problem of the first one found.
pub fn find(account: Option<&Account>) -> Result<PathBuf, PythonProblem> {
    find_in(&env::var_os("PATH").unwrap_or_default(), account)
}

fn find_in(path: &OsStr, account: Option<&Account>) -> Result<PathBuf, PythonProblem> {
    let mut first = None;
    for folder in env::split_paths(path) {
        let python = folder.join("python3");
        if !python.is_file() {
            continue;
        }
        match check(&python, account) {
            Ok(()) => return Ok(python),
            Err(problem) => first = first.or(Some(problem)),
        }
    }
    Err(first.unwrap_or(PythonProblem::NotFound))
}

fn check(python: &Path, account: Option<&Account>) -> Result<(), PythonProblem> {
    let output = environment::command(python)
        .args(["-c", PRINT_LOCATIONS])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())
        .ok_or(PythonProblem::CannotCreateEnvironments)?;
    let Some(account) = account else {
        return Ok(());
    };
    let output = String::from_utf8_lossy(&output.stdout);
    // The files in these folders must be reachable, so a file name is appended.
    let mut paths = output.lines().map(|line| Path::new(line).join("x"));
    match paths.find_map(|path| account.closed_folder(&path)) {
        Some(closed) => Err(PythonProblem::Closed {
            user: account.name.clone(),
            closed,
        }),
        None => Ok(()),
    }
}

/// Returns whether the environment in `folder` works, if fanout is root for
/// `account`. Its interpreter is a link to the system's, which looks for
/// packages in a folder of its own version.
#[must_use]
pub fn works(folder: &Path, account: Option<&Account>) -> bool {
    let python = folder.join("bin/python3");
    if account.is_some_and(|account| account.closed_folder(&python).is_some()) {
        return false;
    }
    let output = environment::command(&python)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let version = output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| version(&String::from_utf8_lossy(&output.stdout)));
    version.is_some_and(|version| folder.join("lib").join(version).is_dir())
}

/// Converts `Python 3.11.2` to `python3.11`.
fn version(output: &str) -> Option<String> {
    let mut parts = output.strip_prefix("Python ")?.trim().split('.');
    Some(format!("python{}.{}", parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn an_environment_with_another_or_a_missing_python_does_not_work() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let python = folder.path().join("bin/python3");
        fs::create_dir_all(folder.path().join("bin")).expect("create the folder");
        fs::create_dir_all(folder.path().join("lib/python3.11")).expect("create the folder");
        let install = |version: &str| {
            let _ = fs::remove_file(&python);
            fs::write(&python, format!("#!/bin/sh\necho Python {version}\n"))
                .expect("write the file");
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755))
                .expect("change the mode");
        };
        install("3.11.2");
        assert!(works(folder.path(), None));
        install("3.13.0");
        assert!(!works(folder.path(), None));
        fs::remove_file(&python).expect("remove the file");
        std::os::unix::fs::symlink("/nowhere/python3", &python).expect("create the link");
        assert!(!works(folder.path(), None));
    }

    /// Creates a Python that reports `location` as its location, or fails.
    fn interpreter(folder: &Path, location: Option<&Path>) -> PathBuf {
        fs::create_dir_all(folder).expect("create the folder");
        let python = folder.join("python3");
        let script = location.map_or_else(
            || "#!/bin/sh\nexit 1\n".to_owned(),
            |location| {
                format!(
                    "#!/bin/sh\necho {0}/python3; echo {0}\n",
                    location.display()
                )
            },
        );
        fs::write(&python, script).expect("write the file");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("change the mode");
        python
    }

    #[test]
    fn a_python_that_the_account_cannot_reach_is_skipped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .expect("change the mode");
        let [bare, closed, open] = ["bare", "closed", "open"].map(|name| folder.path().join(name));
        interpreter(&bare, None);
        let private = interpreter(&closed, Some(&closed));
        let shared = interpreter(&open, Some(&open));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("change the mode");
        let path = |folders: &[&PathBuf]| env::join_paths(folders).expect("a path");
        let stranger = Account {
            name: "stranger".to_owned(),
            uid: 4_000_000_000,
            gid: 4_000_000_000,
        };
        let all = path(&[&bare, &closed, &open]);
        assert_eq!(find_in(&all, None), Ok(private));
        assert_eq!(find_in(&all, Some(&stranger)), Ok(shared));
        assert_eq!(
            find_in(&path(&[&closed]), Some(&stranger)),
            Err(PythonProblem::Closed {
                user: "stranger".to_owned(),
                closed: closed.clone(),
            })
        );
        assert_eq!(
            find_in(&path(&[&bare]), None),
            Err(PythonProblem::CannotCreateEnvironments)
        );
        assert_eq!(
            find_in(OsStr::new("/nowhere"), None),
            Err(PythonProblem::NotFound)
        );
    }
}
