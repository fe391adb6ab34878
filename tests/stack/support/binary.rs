//! The binary as an operator calls it.

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

/// A call that takes longer hangs: the first `up` of a machine downloads.
const LONGEST_RUN: Duration = Duration::from_secs(900);

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fanout");

/// How the binary is called: where its projects are, and its environment.
#[derive(Debug, Clone)]
pub struct Fanout {
    home: PathBuf,
    environment: BTreeMap<String, String>,
}

/// A call that has ended.
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

    /// The same with one more variable.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.insert(name.to_owned(), value.to_owned());
        other
    }

    /// A call that has not begun; nothing of this process's own settings
    /// reaches it.
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

    /// Calls it and waits for its end. One that never ends is killed and fails
    /// the test.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let line = format!("fanout {}", arguments.join(" "));
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let pid = Pid::from_raw(child.id().cast_signed());
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        let output = ended.recv_timeout(LONGEST_RUN).unwrap_or_else(|_| {
            // What it had to say comes with its end.
            let _ = kill(pid, Signal::SIGKILL);
            let said = ended.recv_timeout(LONGEST_RUN);
            panic!("{line}: it does not end\n{said:?}")
        });
        let output = output.expect("an end");
        let ended = Ended {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        if !arguments.contains(&"--show-secrets") {
            canary::is_silent(&ended.evidence());
        }
        ended
    }

    /// Calls it for its JSON document, which has to come with this code.
    pub fn document(&self, code: i32, arguments: &[&str]) -> Json {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        self.run(&all).ends_with(code).document()
    }
}

impl Ended {
    /// The call itself, where it ended with this code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.evidence());
        self
    }

    /// The call itself, where it says this, wherever it says it.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "`{text}` is not in\n{}", self.evidence());
        self
    }

    /// What is on stdout, as JSON of its schema.
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
