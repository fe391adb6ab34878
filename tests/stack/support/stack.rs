//! The stack under test: a project in its own home folder.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use fanout::stack::proc::Identity;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;

use super::{Ended, Fanout, Stores, canary, eventually, guard::Guard, tail, trials::Subject};

/// The default ports. The tests occupy them while a stack is up, so that every
/// stack moves to other ports. Otherwise another stack could take the port of a
/// killed server.
const DEFAULT_PORTS: [u16; 8] = [5432, 6379, 8081, 8083, 8123, 9464, 19092, 19093];

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    pub fanout: Fanout,
    pub stores: Stores,
    /// The `up` call that started the stack.
    pub first_up: Ended,
    pub guard: Guard,
    /// Listeners on those default ports that were free.
    listeners: Mutex<Vec<TcpListener>>,
}

/// The one stack of this process, started by the first test that needs it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<OnceLock<Result<Stack, String>>>);

impl Shared {
    /// Returns the stack. A failed start is not retried.
    pub fn stack(&self) -> &Stack {
        let stack = self.0.get_or_init(Stack::up);
        stack
            .as_ref()
            .unwrap_or_else(|evidence| panic!("{evidence}"))
    }
}

impl Stack {
    fn up() -> Result<Self, String> {
        Self::bring_up(&[])
    }

    /// Starts a stack, with additional flags for `up`.
    pub fn bring_up(flags: &[&str]) -> Result<Self, String> {
        let listeners = Mutex::default();
        occupy_ports(&listeners);
        let home = home();
        let fanout = Fanout::at(&home);
        let guard = Guard::new(&fanout, &home);
        fs::write(home.join("fanout.yaml"), canary::CONFIG).expect("write the configuration");
        let mut arguments = vec!["--runtime", "native", "up", "--ports", "auto"];
        arguments.extend(flags);
        let first_up = fanout.run(&arguments);
        if first_up.code != Some(0) {
            return Err(first_up.evidence());
        }
        Ok(Self {
            stores: Stores::of(&fanout),
            fanout,
            first_up,
            guard,
            listeners,
        })
    }

    /// Occupies the default ports again, including those that were in use
    /// before.
    pub fn occupy_ports(&self) {
        occupy_ports(&self.listeners);
    }

    /// Returns the document of `status`.
    pub fn status(&self) -> Json {
        self.fanout.document(0, &["status"])
    }

    /// Returns the pid of a running service.
    pub fn pid(&self, service: &str) -> Pid {
        let status = self.status();
        let services = status["services"].as_array().expect("services");
        let pid = services
            .iter()
            .find(|found| found["name"] == service)
            .and_then(|found| found["pid"].as_i64());
        let pid = pid.unwrap_or_else(|| panic!("{service} is not running: {status:#}"));
        Pid::from_raw(i32::try_from(pid).expect("a pid"))
    }

    /// Kills a service with SIGKILL.
    pub fn kill(&self, service: &str) {
        kill(self.pid(service), Signal::SIGKILL).expect("kill the service");
    }

    /// Returns the processes of all services, all of which must be running.
    pub fn processes(&self) -> Vec<Identity> {
        let status = self.status();
        let services = status["services"].as_array().expect("services");
        let names = services
            .iter()
            .map(|service| service["name"].as_str().expect("a name"));
        let pids = names.map(|name| self.pid(name).as_raw());
        pids.filter_map(Identity::read).collect()
    }

    /// Runs `up` to restore the stack and waits until it is healthy.
    pub fn repair(&self) {
        // Every service reuses its port, which is free as soon as the service
        // has stopped.
        self.fanout.run(&["up"]).ends_with(0);
        self.wait_until_healthy();
    }

    /// Waits until `status --check` succeeds.
    pub fn wait_until_healthy(&self) {
        eventually("the stack is healthy", || {
            let ended = self.fanout.run(&["status", "--check"]);
            match ended.code {
                Some(0) => Ok(()),
                _ => Err(ended.evidence()),
            }
        });
    }

    /// Asserts that `verify` compares every store and finds no difference, not
    /// even an excused one.
    pub fn assert_verified(&self) {
        let report = self.fanout.document(0, &["verify"]);
        let checks = report["checks"].as_array().expect("checks");
        let names: Vec<&Json> = checks.iter().map(|check| &check["check"]).collect();
        assert_eq!(names, ["rows", "board", "external", "records"]);
        for check in checks {
            let is_clean = check["differences"] == 0 && check["excused"] == 0;
            let is_complete = check["notes"] == serde_json::json!([]);
            assert!(is_clean && is_complete, "{report:#}");
            assert_ne!(check["compared"], 0, "{report:#}");
        }
    }

    /// Returns the path of a file of the project.
    pub fn file(&self, path: &str) -> PathBuf {
        self.fanout.home().join("fanout").join(path)
    }
}

impl Subject for Stack {
    fn evidence(&self) -> String {
        let log = fs::read_to_string(self.file("logs/pipeline.log")).unwrap_or_default();
        format!(
            "{}\n--- pipeline.log\n{}",
            self.fanout.run(&["status"]).evidence(),
            tail(&log, 30)
        )
    }
}

fn occupy_ports(listeners: &Mutex<Vec<TcpListener>>) {
    let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
    for port in DEFAULT_PORTS {
        // A port that is already in use needs no listener.
        listeners.extend(TcpListener::bind(("127.0.0.1", port)).ok());
    }
}

/// Creates a home folder that the Postgres user can traverse.
fn home() -> PathBuf {
    let folder = tempfile::Builder::new()
        .prefix("fanout-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a folder");
    folder.keep()
}
