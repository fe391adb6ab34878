//! Secrets are never shown, and the files that must contain them are readable
//! only by their owners. Each call of the binary checks that no command shows a
//! secret.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use fanout::stack::{files, proc};

use crate::{
    Test,
    cases::case::{Sent, Subject},
    support::{Bench, Ended, Fanout, Stack, Worker, canary, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("custom_passwords_are_never_shown", custom_passwords),
    ("a_failing_external_system_reveals_no_url", failing_external),
    (
        "files_and_output_of_the_stack_contain_no_secret",
        stack_output,
    ),
];

/// Files that must contain secrets.
const HOLDERS: [&str; 6] = [
    "fanout.yaml",
    "state.json",
    "conf/connect/secrets.properties",
    "conf/postgres/password",
    "conf/redis/redis.conf",
    "canary.yaml",
];

/// A project whose servers all have passwords, next to the stack.
struct Guarded<'a> {
    stack: &'a Stack,
    fanout: Fanout,
}

fn custom_passwords(stack: &Stack) {
    let guarded = Guarded::up(stack);
    guarded.run_all_commands();
    assert_private(&stack.fanout.home().join("canary"));
    assert_no_secret_in(&stack.fanout.home().join("canary"));
    guarded.assert_passwords_only_where_needed();
    guarded.fanout.run(&["down"]).ends_with(0);
    // Every connection fails now.
    guarded.run_all_commands();
    guarded.fanout.run(&["reset", "--yes"]).ends_with(0);
}

/// Returns a port outside of the ephemeral range, so that no other process
/// takes the port by chance while its server is stopped.
fn port() -> u16 {
    let begin = 20_000 + u16::try_from(std::process::id() % 5_000).expect("small");
    let mut ports = begin..30_000;
    let free = ports.find(|port| {
        let listener = std::net::TcpListener::bind(("127.0.0.1", *port));
        listener.is_ok() && !TAKEN.lock().expect("not poisoned").contains(port)
    });
    let free = free.expect("a free port");
    TAKEN.lock().expect("not poisoned").push(free);
    free
}

static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());

impl<'a> Guarded<'a> {
    fn up(stack: &'a Stack) -> Self {
        let secret = canary::MARK;
        let file = stack.fanout.home().join("canary.yaml");
        let (postgres, redis, clickhouse, stub) = (port(), port(), port(), port());
        let connect: url::Url = stack
            .stores
            .url("FANOUT_CONNECT_URL")
            .parse()
            .expect("a url");
        let text = format!(
            r#"
postgres: {{url: "postgres://app:{secret}-pg@127.0.0.1:{postgres}/app"}}
redis: {{url: "redis://:{secret}-redis@127.0.0.1:{redis}"}}
clickhouse: {{url: "http://app:{secret}-ch@127.0.0.1:{clickhouse}"}}
external:
  url: "http://app:{secret}-external@127.0.0.1:{stub}?api_key={secret}-key"
  events_path: "/events?token={secret}-token"
kafka: {{brokers: "{brokers}"}}
connect: {{url: "http://app:{secret}-connect@127.0.0.1:{connect}"}}
connector: {{properties: {{database.ssl.passphrase: "{secret}-passphrase"}}}}
services:
  kafka: {{runtime: external}}
  connect: {{runtime: external}}
  redis: {{env: {{API_CREDENTIAL: "{secret}-env"}}}}
"#,
            brokers = stack.stores.url("FANOUT_KAFKA_BROKERS"),
            connect = connect.port().expect("a port"),
        );
        fs::write(&file, text).expect("write the configuration");
        let fanout = stack
            .fanout
            .with("FANOUT_PROJECT", "canary")
            .with("FANOUT_CONFIG", file.to_str().expect("utf-8"));
        let up = ["--runtime", "native", "up"];
        let services = ["postgres", "redis", "clickhouse", "stub"];
        fanout.run(&[&up[..], &services].concat()).ends_with(0);
        Self { stack, fanout }
    }

    /// Runs every command that contacts servers, with both outputs. The exit
    /// codes depend on the running servers. Each call checks that no secret is
    /// shown.
    fn run_all_commands(&self) {
        let bundle = self.stack.fanout.home().join("bundle.json");
        let bundle = bundle.to_str().expect("utf-8");
        let calls: [&[&str]; 16] = [
            &["status"],
            &["doctor", "--bundle", bundle],
            &["config", "show"],
            &["config", "check"],
            &["env"],
            &["logs", "--tail", "1000"],
            &["up", "--dry-run"],
            &["connector", "status"],
            &["connector", "apply", "--dry-run"],
            &["leaderboard"],
            &["peek", "clickhouse"],
            &["peek", "redis"],
            &["peek", "http"],
            &["smoke", "--timeout", "1s"],
            &["verify", "--timeout", "1s"],
            &["backfill", "--from", "1h", "--dry-run"],
        ];
        for call in calls {
            for output in ["human", "json"] {
                let all = [&["-v", "--output", output], call].concat();
                let ended: Ended = self.fanout.run(&all);
                assert!(ended.code.is_some(), "{}", ended.evidence());
            }
        }
        canary::assert_no_secret(&fs::read_to_string(bundle).expect("the bundle"));
        let mode = fs::metadata(bundle).expect("the bundle").mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    fn assert_passwords_only_where_needed(&self) {
        let status = self.fanout.document(0, &["status"]);
        for service in status["services"].as_array().expect("services") {
            let name = service["name"].as_str().expect("a name");
            let Some(pid) = service["pid"].as_i64() else {
                continue;
            };
            let environment =
                fs::read(format!("/proc/{pid}/environ")).expect("read the environment");
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let with_secret = environment
                .split('\0')
                .filter(|variable| variable.contains(canary::MARK))
                .filter_map(|variable| Some(variable.split_once('=')?.0));
            // The environment of Redis is overwritten by its process title.
            let expected: &[&str] = match name {
                "clickhouse" => &["CLICKHOUSE_PASSWORD"],
                _ => &[],
            };
            assert_eq!(with_secret.collect::<Vec<_>>(), expected, "{name}");
        }
    }
}

/// An external system that refuses all calls halts the sink, and an unreachable
/// one is retried. Both are reported in the status, which every user may read.
fn failing_external(stack: &Stack) {
    let bench = Bench::new(stack, "unseen");
    bench.inject_faults("status=404");
    let subject = Subject::new("cdc-unseen", 1);
    let insert = Sent::insert(&subject, subject.after());
    let (_, address) = bench.external().split_once("://").expect("a url");
    for (host, field) in [(address, "halt"), ("127.0.0.1:1", "detail")] {
        let secret = canary::MARK;
        let url = format!("http://app:{secret}-external@{host}?api_key={secret}-key");
        let fanout = bench.fanout().with("FANOUT_EXTERNAL_URL", &url);
        let worker = Worker::start(stack, &fanout, &["--sinks", "http"]);
        eventually("the topics exist", || {
            match worker.sink("http")["state"].as_str() {
                Some("starting") | None => Err(worker.log_tail()),
                Some(_) => Ok(()),
            }
        });
        bench.write_event(0, &insert.record);
        let sink = eventually("the sink reports the failure", || {
            let sink = worker.sink("http");
            let is_reported = !sink[field].is_null();
            is_reported
                .then(|| sink.clone())
                .ok_or_else(|| sink.to_string())
        });
        canary::assert_no_secret(&sink.to_string());
        if field == "halt" {
            let remedy = sink["halt"]["remedy"].as_str().expect("a remedy");
            assert!(remedy.contains("app:****@"), "{remedy}");
        }
        for path in ["/status", "/metrics", "/healthz"] {
            canary::assert_no_secret(&get(&format!("{}{path}", worker.url())));
        }
        canary::assert_no_secret(&worker.log());
        worker.stop();
    }
}

fn get(url: &str) -> String {
    wait_for(async {
        let response = reqwest::get(url).await.expect("an answer");
        response.text().await.expect("a text")
    })
}

fn stack_output(stack: &Stack) {
    // The connector uses the property, and Connect reports a reference to the
    // secrets file.
    let connect = stack.stores.url("FANOUT_CONNECT_URL");
    let config = get(&format!("{connect}/connectors/pg-engagement-cdc/config"));
    canary::assert_no_secret(&config);
    assert!(
        config.contains("secrets.properties:connector.fanout.canary.passphrase}"),
        "{config}"
    );
    let pipeline = stack.stores.url("FANOUT_HTTP_URL");
    for path in ["/status", "/metrics"] {
        canary::assert_no_secret(&get(&format!("{pipeline}{path}")));
    }
    for pid in proc::all() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        canary::assert_no_secret(&String::from_utf8_lossy(&line));
    }
    assert_private(&stack.file(""));
    assert_no_secret_in(stack.fanout.home());
}

/// Collects all files and folders below a folder.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.clone());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
    }
}

/// Asserts that only the users that run the project's servers can access its
/// folders.
fn assert_private(project: &Path) {
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("read the mode")
            .permissions()
            .mode()
            & 0o777
    };
    let passable = files::passable();
    assert_eq!(mode(project), passable);
    for (folder, expected) in [
        ("data", passable),
        ("conf", passable),
        ("logs", 0o700),
        ("run", 0o700),
    ] {
        assert_eq!(mode(&project.join(folder)), expected, "{folder}");
    }
    let mut all = Vec::new();
    walk(project, &mut all);
    assert!(all.len() > 20, "{all:?}");
    for path in all {
        let below = path.strip_prefix(project).expect("below");
        let top = below.iter().next().expect("a part");
        // The servers remove files at any time.
        let Some(found) = mode_of(&path) else {
            continue;
        };
        // Data is in a folder that only its server can access.
        let is_deep = below.iter().count() > 2;
        let forbidden = match top.to_str().expect("utf-8") {
            "data" if is_deep => continue,
            "conf" => 0o027,
            _ => 0o077,
        };
        let is_top = below.iter().count() == 1 && path.is_dir();
        assert!(
            is_top || found & forbidden == 0,
            "{} {found:o}",
            path.display()
        );
    }
}

/// Returns the permissions of a file, or `None` if it no longer exists.
fn mode_of(path: &Path) -> Option<u32> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Some(metadata.mode() & 0o777),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("read the mode of {}: {error}", path.display()),
    }
}

/// Asserts that no file contains a secret, except for the files that must.
fn assert_no_secret_in(folder: &Path) {
    let mut all = Vec::new();
    walk(folder, &mut all);
    for path in all.iter().filter(|path| path.is_file()) {
        // Kafka's indexes have 10 MB each and contain only numbers.
        let is_index = path
            .extension()
            .is_some_and(|kind| kind == "index" || kind == "timeindex");
        if is_index || HOLDERS.iter().any(|holder| path.ends_with(holder)) {
            continue;
        }
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let Some(start) = text.find(canary::MARK) else {
            continue;
        };
        let excerpt: String = text[start..].chars().take(100).collect();
        panic!("{}: {excerpt}", path.display());
    }
}
