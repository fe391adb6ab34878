//! A ClickHouse that fails after it has taken a request: nothing is
//! acknowledged that is not stored, and nothing is missing once the cause is
//! gone.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Event, Fanout, Stack, Stores, Topics, eventually, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("a_refused_write_is_not_acknowledged", refused),
    ("a_full_disk_loses_nothing", full_disk),
];

const TABLE: &str = "analytics.engagement_enriched_storage";

/// What makes every insert fail, what ends it, and how the sink takes it.
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

/// The sink, as the pipeline's status has it.
fn sink(status: &Json) -> Json {
    let sinks = status["sinks"].as_array().expect("sinks");
    let found = sinks.iter().find(|sink| sink["name"] == "clickhouse");
    found
        .unwrap_or_else(|| panic!("no sink: {status:#}"))
        .clone()
}

fn refused(stack: &Stack) {
    let first = Event::insert(stack);
    first.becomes("device", &Json::from("ios"));
    let letters = sink(&stack.status())["dead_letters"].clone();
    for (begin, end, state, evidence) in CAUSES {
        stack.stores.clickhouse(&begin.replace("{t}", TABLE));
        let event = Event::insert(stack);
        eventually(&format!("the sink is {state}: {evidence}"), || {
            let sink = sink(&stack.status());
            let told = sink.to_string().contains(evidence);
            let behind = sink["lag"].as_u64() > Some(0);
            (sink["state"] == state && told && behind)
                .then_some(())
                .ok_or_else(|| sink.to_string())
        });
        stack.stores.clickhouse(&end.replace("{t}", TABLE));
        event.becomes("device", &Json::from("ios"));
    }
    stack.is_well();
    assert_eq!(sink(&stack.status())["dead_letters"], letters);
    stack.verifies();
}

/// A ClickHouse of a project of its own, with its data on a small disk.
struct SmallDisk {
    fanout: Fanout,
    /// The data, as the server sees it: nobody else has that disk.
    data: PathBuf,
}

/// Mounts a disk over the folder for the command that follows, and for what it
/// starts. Where the caller may not mount, a user namespace lets it.
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
        fs::create_dir_all(&folder).expect("a folder");
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
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "no server on a small disk:\n{said}");
        let status = fanout.document(0, &["status"]);
        let services = status["services"].as_array().expect("services");
        let server = services.iter().find(|one| one["name"] == "clickhouse");
        let pid = server.and_then(|one| one["pid"].as_i64()).expect("a pid");
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

    /// Leaves no room at all, also where some was made since.
    fn fill(&self) {
        let file = File::options()
            .append(true)
            .create(true)
            .open(self.ballast());
        let mut file = file.expect("a file on the small disk");
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
    let bench = Bench::on(stack, "full", stores.url("FANOUT_CLICKHOUSE_URL"));
    let worker = bench.run(&["--sinks", "clickhouse"]);
    let stored = || {
        let count = "SELECT count() FROM {db}.engagement_enriched";
        let count = bench.clickhouse(count);
        count.parse::<i64>().expect("a number")
    };
    for id in 1..=20 {
        bench.insert(0, id);
    }
    eventually("the first are stored", || same(&20, stored()));
    disk.fill();
    for id in 21..=50 {
        bench.insert(0, id);
    }
    eventually("the sink tries again for want of space", || {
        disk.fill();
        let sink = worker.sink("clickhouse");
        let told = sink.to_string().contains("NOT_ENOUGH_SPACE");
        (sink["state"] == "retrying" && told && sink["lag"].as_u64() > Some(0))
            .then_some(())
            .ok_or_else(|| format!("{sink}\n{}", worker.said()))
    });
    let commits = Topics::of(stack).commits(&bench.group("clickhouse"), &bench.events_topic());
    let stored_then = stored();
    assert!(
        commits[0].0 <= stored_then,
        "{commits:?}, {stored_then} rows"
    );
    fs::remove_file(disk.ballast()).expect("removed");
    eventually("nothing is missing", || same(&50, stored()));
    eventually("all of it is acknowledged", || {
        same(&Json::from(0), worker.sink("clickhouse")["lag"].clone())
    });
    assert_eq!(
        worker.sink("clickhouse")["dead_letters"],
        serde_json::json!({})
    );
    worker.stop();
    disk.fanout.run(&["reset", "--yes"]).ends_with(0);
}
