//! Calls the binary as an operator would.

#[path = "../../support/schema.rs"]
mod schema;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;

use super::canary;

/// A call that takes longer is considered hung. The first `up` on a machine
/// downloads servers.
const LONGEST_RUN: Duration = Duration::from_secs(900);

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fanout");

/// A caller of the binary, with a home folder and an environment.
#[derive(Debug, Clone)]
pub struct Fanout {
    home: PathBuf,
    environment: BTreeMap<String, String>,
}

/// A finished call.
#[derive(Debug)]
pub struct Ended {
    line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Fanout {
    pub fn at(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            environment: BTreeMap::new(),
        }
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Returns a copy with one more variable.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.insert(name.to_owned(), value.to_owned());
        other
    }

    /// Returns a call that has not been started. It inherits none of this
    /// process's own settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars() {
            if name.starts_with("FANOUT_") && name != "FANOUT_CACHE" {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env("FANOUT_HOME", &self.home)
            .envs(&self.environment)
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }

    /// Calls the binary and waits until it exits. A call that hangs is killed
    /// and fails the test.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let line = format!("fanout {}", arguments.join(" "));
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the binary");
        let pid = Pid::from_raw(child.id().cast_signed());
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        let output = ended.recv_timeout(LONGEST_RUN).unwrap_or_else(|_| {
            // The output arrives only when the process ends.
            let _ = kill(pid, Signal::SIGKILL);
            let output = ended.recv_timeout(LONGEST_RUN);
            panic!("{line}: did not exit in time\n{output:?}")
        });
        let output = output.expect("wait for the binary");
        let ended = Ended {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        if !arguments.contains(&"--show-secrets") {
            canary::assert_no_secret(&ended.evidence());
        }
        ended
    }

    /// Calls the binary, expects this exit code, and returns its JSON document.
    pub fn document(&self, code: i32, arguments: &[&str]) -> Json {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        self.run(&all).ends_with(code).document()
    }
}

impl Ended {
    /// Returns the call after asserting its exit code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.evidence());
        self
    }

    /// Returns the call after asserting that its stdout or stderr contains
    /// `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let is_found = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(is_found, "`{text}` is not in\n{}", self.evidence());
        self
    }

    /// Returns the JSON document on stdout, checked against its schema.
    #[track_caller]
    pub fn document(&self) -> Json {
        let document = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no document: {error}\n{}", self.evidence()));
        if let Some(violation) = schema::violation(&document) {
            panic!("{violation}\n{}", self.evidence());
        }
        document
    }

    pub fn evidence(&self) -> String {
        let Self {
            line,
            code,
            stdout,
            stderr,
        } = self;
        format!("$ {line}\n{stdout}{stderr}ended with {code:?}")
    }
}
