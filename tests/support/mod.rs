//! The binary under test, in a home and a folder of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value as Json;

/// One use of the binary, to be described and then run.
pub struct Fanout {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Fanout {
    /// In a folder that a server which drops root's rights can pass through.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        Self {
            folder,
            env: Vec::new(),
        }
    }

    /// Where its projects are.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// With this variable, besides PATH.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this `fanout.yaml` in its folder.
    pub fn config(self, text: &str) -> Self {
        fs::write(self.folder.path().join("fanout.yaml"), text).expect("written");
        self
    }

    /// The command itself, for tests that do not wait for its end.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanout"));
        command
            .args(arguments)
            .env_clear()
            // Whether this machine has a container engine is nobody's business.
            .env("FANOUT_RUNTIME", "native")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("FANOUT_HOME", self.home())
            .env("FANOUT_CACHE", self.folder.path().join("cache"))
            .envs(self.env.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().expect("the binary runs");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("utf-8"),
            stderr: String::from_utf8(output.stderr).expect("utf-8"),
        }
    }
}

impl Ended {
    /// Ended with this code, or the test shows all there is.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Stdout and stderr together hold this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let there = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(there, "{text:?} is not in {self:#?}");
        self
    }

    /// Its one JSON document.
    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
