//! A ClickHouse that fails after it has accepted a request: nothing is
//! acknowledged before it is stored, and nothing is missing once the cause is
//! fixed.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Event, Fanout, Stack, Stores, Topics, check_equal, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("a_refused_write_is_not_acknowledged", refused),
    ("a_full_disk_loses_nothing", full_disk),
];

const TABLE: &str = "analytics.engagement_enriched_storage";

/// Statements that make every insert fail, statements that fix the cause, and
/// the sink's state and error.
const CAUSES: [(&str, &str, &str, &str); 3] = [
    (
        "ALTER TABLE {t} ADD CONSTRAINT none CHECK event_id < 0",
        "ALTER TABLE {t} DROP CONSTRAINT none",
        "halted",
        "VIOLATED_CONSTRAINT",
    ),
    (
        "CREATE MATERIALIZED VIEW analytics.thrown ENGINE = Memory AS \
         SELECT throwIf(event_id > 0, 'thrown') AS x FROM {t}",
        "DROP VIEW analytics.thrown SYNC",
        "halted",
        "while pushing to view",
    ),
    (
        "ALTER TABLE {t} MODIFY SETTING parts_to_throw_insert = 1",
        "ALTER TABLE {t} RESET SETTING parts_to_throw_insert",
        "retrying",
        "TOO_MANY_PARTS",
    ),
];

/// Returns the sink from the pipeline's status.
fn sink(status: &Json) -> Json {
    let sinks = status["sinks"].as_array().expect("sinks");
    let found = sinks.iter().find(|sink| sink["name"] == "clickhouse");
    found
        .unwrap_or_else(|| panic!("no sink: {status:#}"))
        .clone()
}

fn refused(stack: &Stack) {
    let first = Event::insert(stack);
    first.wait_for_column("device", &Json::from("ios"));
    let dead_letters = sink(&stack.status())["dead_letters"].clone();
    for (begin, end, state, evidence) in CAUSES {
        stack.stores.clickhouse(&begin.replace("{t}", TABLE));
        let event = Event::insert(stack);
        eventually(&format!("the sink is {state}: {evidence}"), || {
            let sink = sink(&stack.status());
            let is_reported = sink.to_string().contains(evidence);
            let is_behind = sink["lag"].as_u64() > Some(0);
            (sink["state"] == state && is_reported && is_behind)
                .then_some(())
                .ok_or_else(|| sink.to_string())
        });
        stack.stores.clickhouse(&end.replace("{t}", TABLE));
        event.wait_for_column("device", &Json::from("ios"));
    }
    stack.wait_until_healthy();
    assert_eq!(sink(&stack.status())["dead_letters"], dead_letters);
    stack.assert_verified();
}

/// A separate project's ClickHouse, with its data on a small disk.
struct SmallDisk {
    fanout: Fanout,
    /// The data folder inside of the server's mount namespace; the disk is
    /// mounted only there.
    data: PathBuf,
}

/// Mounts a disk over the folder for the following command and its children. A
/// caller without the right to mount gets a user namespace.
const MOUNT: &str = r#"mount -t tmpfs -o size=48m,mode=755 tmpfs "$0" && exec "$@""#;

impl SmallDisk {
    fn new(stack: &Stack) -> Self {
        let fanout = stack.fanout.with("FANOUT_PROJECT", "small");
        let variant = if stack.file("data/clickhouse-chdb").is_dir() {
            "clickhouse-chdb"
        } else {
            "clickhouse"
        };
        let folder = fanout.home().join("small/data").join(variant);
        fs::create_dir_all(&folder).expect("create the data folder");
        let up = fanout.command(&["--runtime", "native", "up", "clickhouse", "--ports", "auto"]);
        let mut unshare = std::process::Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            unshare.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        unshare.args(["--mount", "sh", "-c", MOUNT]).arg(&folder);
        unshare.arg(up.get_program()).args(up.get_args());
        for (name, value) in up.get_envs() {
            match value {
                Some(value) => unshare.env(name, value),
                None => unshare.env_remove(name),
            };
        }
        unshare.stdin(Stdio::null()).current_dir("/");
        let ended = unshare.output().expect("unshare, of util-linux");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success(),
            "cannot start a server on a small disk:\n{stderr}"
        );
        let status = fanout.document(0, &["status"]);
        let services = status["services"].as_array().expect("services");
        let server = services
            .iter()
            .find(|service| service["name"] == "clickhouse");
        let pid = server
            .and_then(|service| service["pid"].as_i64())
            .expect("a pid");
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        let inside = folder.strip_prefix("/").expect("an absolute path");
        Self {
            fanout,
            data: root.join(inside),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.data.join("ballast")
    }

    /// Fills the disk completely, including space that has been freed since the
    /// last call.
    fn fill(&self) {
        let file = File::options()
            .append(true)
            .create(true)
            .open(self.ballast());
        let mut file = file.expect("open the ballast file");
        for size in [1 << 20, 4096, 1] {
            let error = loop {
                if let Err(error) = file.write_all(&vec![0; size]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }
}

fn full_disk(stack: &Stack) {
    let disk = SmallDisk::new(stack);
    let stores = Stores::of(&disk.fanout);
    let bench = Bench::in_clickhouse(stack, "full", stores.url("FANOUT_CLICKHOUSE_URL"));
    let worker = bench.run(&["--sinks", "clickhouse"]);
    let stored = || {
        let count = "SELECT count() FROM {db}.engagement_enriched";
        let count = bench.clickhouse(count);
        count.parse::<i64>().expect("a number")
    };
    for id in 1..=20 {
        bench.insert(0, id);
    }
    eventually("the first events are stored", || check_equal(&20, stored()));
    disk.fill();
    for id in 21..=50 {
        bench.insert(0, id);
    }
    eventually("the sink retries because the disk is full", || {
        disk.fill();
        let sink = worker.sink("clickhouse");
        let is_reported = sink.to_string().contains("NOT_ENOUGH_SPACE");
        (sink["state"] == "retrying" && is_reported && sink["lag"].as_u64() > Some(0))
            .then_some(())
            .ok_or_else(|| format!("{sink}\n{}", worker.log_tail()))
    });
    let commits = Topics::new(stack).commits(&bench.group("clickhouse"), &bench.events_topic());
    let stored_rows = stored();
    assert!(
        commits[0].0 <= stored_rows,
        "{commits:?}, {stored_rows} rows"
    );
    fs::remove_file(disk.ballast()).expect("remove the ballast");
    eventually("all events are stored", || check_equal(&50, stored()));
    eventually("all events are committed", || {
        check_equal(&Json::from(0), worker.sink("clickhouse")["lag"].clone())
    });
    assert_eq!(
        worker.sink("clickhouse")["dead_letters"],
        serde_json::json!({})
    );
    worker.stop();
    disk.fanout.run(&["reset", "--yes"]).ends_with(0);
}
