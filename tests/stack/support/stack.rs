//! The stack under test: a project in a home of its own.

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

/// The default ports: something else holds them while a stack is up. A server
/// that is killed frees its port for a while, and every other stack would take
/// one of these.
const DEFAULT_PORTS: [u16; 8] = [5432, 6379, 8081, 8083, 8123, 9464, 19092, 19093];

/// A stack that is up.
#[derive(Debug)]
pub struct Stack {
    pub fanout: Fanout,
    pub stores: Stores,
    /// The `up` that brought it here.
    pub first_up: Ended,
    pub guard: Guard,
    /// The default ports that something else holds, as far as nobody held them
    /// before.
    held: Mutex<Vec<TcpListener>>,
}

/// The one stack of this process, brought up by the first test that wants it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<OnceLock<Result<Stack, String>>>);

impl Shared {
    /// The stack; one that did not come up is not tried again.
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

    /// Brings one up; with these flags of `up` besides.
    pub fn bring_up(flags: &[&str]) -> Result<Self, String> {
        let held = Mutex::default();
        hold_ports(&held);
        let home = home();
        let fanout = Fanout::at(&home);
        let guard = Guard::new(&fanout, &home);
        fs::write(home.join("fanout.yaml"), canary::CONFIG).expect("written");
        let mut line = vec!["--runtime", "native", "up", "--ports", "auto"];
        line.extend(flags);
        let first_up = fanout.run(&line);
        if first_up.code != Some(0) {
            return Err(first_up.evidence());
        }
        Ok(Self {
            stores: Stores::of(&fanout),
            fanout,
            first_up,
            guard,
            held,
        })
    }

    /// Holds the default ports, also where somebody else held them before.
    pub fn hold_ports(&self) {
        hold_ports(&self.held);
    }

    /// What `status` says.
    pub fn status(&self) -> Json {
        self.fanout.document(0, &["status"])
    }

    /// The pid of a service that runs.
    pub fn pid(&self, service: &str) -> Pid {
        let status = self.status();
        let services = status["services"].as_array().expect("services");
        let pid = services
            .iter()
            .find(|found| found["name"] == service)
            .and_then(|found| found["pid"].as_i64());
        let pid = pid.unwrap_or_else(|| panic!("{service} does not run: {status:#}"));
        Pid::from_raw(i32::try_from(pid).expect("a pid"))
    }

    /// Kills a service the hard way.
    pub fn kill(&self, service: &str) {
        kill(self.pid(service), Signal::SIGKILL).expect("it was there");
    }

    /// The processes of all services, each of which has to run.
    pub fn processes(&self) -> Vec<Identity> {
        let status = self.status();
        let services = status["services"].as_array().expect("services");
        let names = services
            .iter()
            .map(|service| service["name"].as_str().expect("a name"));
        let pids = names.map(|name| self.pid(name).as_raw());
        pids.filter_map(Identity::of).collect()
    }

    /// Brings the stack back to what it should be, and sees that it is.
    pub fn mend(&self) {
        // On the ports that it had: they are free as soon as it is gone.
        self.fanout.run(&["up"]).ends_with(0);
        self.is_well();
    }

    /// Waits until `status` finds nothing wrong.
    pub fn is_well(&self) {
        eventually("everything works", || {
            let ended = self.fanout.run(&["status", "--check"]);
            match ended.code {
                Some(0) => Ok(()),
                _ => Err(ended.evidence()),
            }
        });
    }

    /// `verify`, which has to judge everything and to find every store as it
    /// should be, without an excuse.
    pub fn verifies(&self) {
        let report = self.fanout.document(0, &["verify"]);
        let checks = report["checks"].as_array().expect("checks");
        let names: Vec<&Json> = checks.iter().map(|check| &check["check"]).collect();
        assert_eq!(names, ["rows", "board", "external", "records"]);
        for check in checks {
            let clean = check["differences"] == 0 && check["excused"] == 0;
            let judged = check["notes"] == serde_json::json!([]);
            assert!(clean && judged, "{report:#}");
            assert_ne!(check["compared"], 0, "{report:#}");
        }
    }

    /// A file of the project.
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

fn hold_ports(held: &Mutex<Vec<TcpListener>>) {
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    for port in DEFAULT_PORTS {
        // Where it is taken already, it is held.
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok());
    }
}

/// A folder that the user Postgres runs as can go through.
fn home() -> PathBuf {
    let folder = tempfile::Builder::new()
        .prefix("fanout-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a folder");
    folder.keep()
}
