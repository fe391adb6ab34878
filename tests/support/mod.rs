//! The binary under test, with its own home and working directory.

pub mod schema;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value as Json;

/// An environment for the binary: a temporary folder and environment variables.
pub struct Fanout {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// Result of a finished run.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Fanout {
    /// Creates an environment in a temporary folder that other users can enter,
    /// because some servers drop root privileges.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .expect("set the mode");
        Self {
            folder,
            env: Vec::new(),
        }
    }

    /// Returns the folder of the projects.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes a `fanout.yaml` into the working directory.
    pub fn config(self, text: &str) -> Self {
        fs::write(self.folder.path().join("fanout.yaml"), text).expect("write the file");
        self
    }

    /// Records a project that was brought up with these services on these ports
    /// and then stopped.
    pub fn stopped(self, services: &[(&str, u16)]) -> Self {
        let (mut recorded, mut settings) = (serde_json::Map::new(), serde_json::Map::new());
        for (service, port) in services {
            let (key, url) = match *service {
                "postgres" => (
                    "postgres.url",
                    format!("postgres://app:app@127.0.0.1:{port}/app"),
                ),
                "kafka" => ("kafka.brokers", format!("127.0.0.1:{port}")),
                "connect" => ("connect.url", format!("http://127.0.0.1:{port}")),
                "redis" => ("redis.url", format!("redis://127.0.0.1:{port}")),
                "clickhouse" => ("clickhouse.url", format!("http://app:app@127.0.0.1:{port}")),
                "stub" => ("external.url", format!("http://127.0.0.1:{port}")),
                other => panic!("no such service: {other}"),
            };
            settings.insert(key.to_owned(), url.into());
            let service_state = serde_json::json!({
                "runtime": "native", "variant": null, "ports": { "main": port },
            });
            recorded.insert((*service).to_owned(), service_state);
        }
        let state = serde_json::json!({
            "format": 1, "project": "fanout", "runtime": "native",
            "services": recorded, "settings": settings,
        });
        fs::create_dir_all(self.home().join("fanout")).expect("create the folder");
        fs::write(self.home().join("fanout/state.json"), state.to_string())
            .expect("write the file");
        self
    }

    /// Returns the command itself, for tests that do not wait until it exits.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanout"));
        command
            .args(arguments)
            .env_clear()
            // The tests must not depend on a container engine of this machine.
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

    /// Runs the command until it exits.
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
    /// Asserts the exit code; a failure shows the complete output.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that stdout or stderr contains this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let is_found = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(is_found, "{text:?} is not in {self:#?}");
        self
    }

    /// Returns the JSON document of stdout, after checking it against its
    /// schema.
    #[track_caller]
    pub fn json(&self) -> Json {
        let document = serde_json::from_str(&self.stdout);
        let document = document.unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        if let Some(violation) = schema::violation(&document) {
            panic!("{violation}: {self:#?}");
        }
        document
    }
}
