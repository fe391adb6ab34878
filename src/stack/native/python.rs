//! Virtual environments of Python: whether one can be made, and whether one
//! that was made still works.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Whether a Python makes them: Debian ships it without the modules for that.
#[must_use]
pub fn makes_environments(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether the environment in `folder` works: its interpreter is a link to the
/// system's, and looks for its packages in a folder of its own version.
#[must_use]
pub fn works(folder: &Path) -> bool {
    let said = Command::new(folder.join("bin/python3"))
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
        assert!(works(folder.path()));
        becomes("3.13.0");
        assert!(!works(folder.path()));
        fs::remove_file(&python).expect("removed");
        std::os::unix::fs::symlink("/nowhere/python3", &python).expect("linked");
        assert!(!works(folder.path()));
    }
}
