//! Secrets are seen nowhere, and the files that have to hold them are closed.
//! That no command shows one is checked with each call of the binary.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use fanout::stack::{files, proc};

use crate::{
    Test,
    cases::case::{Sent, Subject},
    support::{Bench, Ended, Fanout, Stack, Worker, canary, eventually, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("passwords_of_ones_own_are_seen_nowhere", own_passwords),
    (
        "an_external_system_that_fails_shows_no_url",
        failing_external,
    ),
    ("what_the_stack_left_behind_holds_no_secret", left_behind),
];

/// Where secrets have to be.
const HOLDERS: [&str; 6] = [
    "fanout.yaml",
    "state.json",
    "conf/connect/secrets.properties",
    "conf/postgres/password",
    "conf/redis/redis.conf",
    "canary.yaml",
];

/// A project whose servers all have passwords, beside the stack's own.
struct Guarded<'a> {
    stack: &'a Stack,
    fanout: Fanout,
}

fn own_passwords(stack: &Stack) {
    let guarded = Guarded::up(stack);
    guarded.looks();
    closed(&stack.fanout.home().join("canary"));
    searched(&stack.fanout.home().join("canary"));
    guarded.only_who_needs_it_has_a_password_in_its_environment();
    guarded.fanout.run(&["down"]).ends_with(0);
    // Now each connection fails.
    guarded.looks();
    guarded.fanout.run(&["reset", "--yes"]).ends_with(0);
}

/// A port that nothing takes by chance while its server does not run.
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
        let mark = canary::MARK;
        let file = stack.fanout.home().join("canary.yaml");
        let (postgres, redis, clickhouse, stub) = (port(), port(), port(), port());
        let connect: url::Url = stack
            .stores
            .url("FANOUT_CONNECT_URL")
            .parse()
            .expect("a url");
        let text = format!(
            r#"
postgres: {{url: "postgres://app:{mark}-pg@127.0.0.1:{postgres}/app"}}
redis: {{url: "redis://:{mark}-redis@127.0.0.1:{redis}"}}
clickhouse: {{url: "http://app:{mark}-ch@127.0.0.1:{clickhouse}"}}
external:
  url: "http://app:{mark}-external@127.0.0.1:{stub}?api_key={mark}-key"
  events_path: "/events?token={mark}-token"
kafka: {{brokers: "{brokers}"}}
connect: {{url: "http://app:{mark}-connect@127.0.0.1:{connect}"}}
connector: {{properties: {{database.ssl.passphrase: "{mark}-passphrase"}}}}
services:
  kafka: {{runtime: external}}
  connect: {{runtime: external}}
  redis: {{env: {{API_CREDENTIAL: "{mark}-env"}}}}
"#,
            brokers = stack.stores.url("FANOUT_KAFKA_BROKERS"),
            connect = connect.port().expect("a port"),
        );
        fs::write(&file, text).expect("written");
        let fanout = stack
            .fanout
            .with("FANOUT_PROJECT", "canary")
            .with("FANOUT_CONFIG", file.to_str().expect("utf-8"));
        let up = ["--runtime", "native", "up"];
        let services = ["postgres", "redis", "clickhouse", "stub"];
        fanout.run(&[&up[..], &services].concat()).ends_with(0);
        Self { stack, fanout }
    }

    /// Every command that asks servers, in both forms. How each ends depends on
    /// what runs; that none shows a secret is checked with the call.
    fn looks(&self) {
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
        canary::is_silent(&fs::read_to_string(bundle).expect("the bundle"));
        let mode = fs::metadata(bundle).expect("the bundle").mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    fn only_who_needs_it_has_a_password_in_its_environment(&self) {
        let status = self.fanout.document(0, &["status"]);
        for service in status["services"].as_array().expect("services") {
            let name = service["name"].as_str().expect("a name");
            let Some(pid) = service["pid"].as_i64() else {
                continue;
            };
            let environment = fs::read(format!("/proc/{pid}/environ")).expect("readable");
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let marked = environment
                .split('\0')
                .filter(|variable| variable.contains(canary::MARK))
                .filter_map(|variable| Some(variable.split_once('=')?.0));
            // Redis writes its title over its environment.
            let expected: &[&str] = match name {
                "clickhouse" => &["CLICKHOUSE_PASSWORD"],
                _ => &[],
            };
            assert_eq!(marked.collect::<Vec<_>>(), expected, "{name}");
        }
    }
}

/// One that refuses everything halts the sink, and one that is not there is
/// tried again: both are told in the status, which everybody may read.
fn failing_external(stack: &Stack) {
    let bench = Bench::new(stack, "unseen");
    bench.faults("status=404");
    let subject = Subject::new("cdc-unseen", 1);
    let insert = Sent::insert(&subject, subject.after());
    let (_, there) = bench.external().split_once("://").expect("a url");
    for (place, told) in [(there, "halt"), ("127.0.0.1:1", "detail")] {
        let mark = canary::MARK;
        let url = format!("http://app:{mark}-external@{place}?api_key={mark}-key");
        let fanout = bench.fanout().with("FANOUT_EXTERNAL_URL", &url);
        let worker = Worker::start(stack, &fanout, &["--sinks", "http"]);
        eventually(
            "the topics are there",
            || match worker.sink("http")["state"].as_str() {
                Some("starting") | None => Err(worker.said()),
                Some(_) => Ok(()),
            },
        );
        bench.event(0, &insert.record);
        let sink = eventually("the sink says what is wrong", || {
            let sink = worker.sink("http");
            let says = !sink[told].is_null();
            says.then(|| sink.clone()).ok_or_else(|| sink.to_string())
        });
        canary::is_silent(&sink.to_string());
        if told == "halt" {
            let remedy = sink["halt"]["remedy"].as_str().expect("a remedy");
            assert!(remedy.contains("app:****@"), "{remedy}");
        }
        for path in ["/status", "/metrics", "/healthz"] {
            canary::is_silent(&get(&format!("{}{path}", worker.url())));
        }
        canary::is_silent(&worker.log());
        worker.stop();
    }
}

fn get(url: &str) -> String {
    wait_for(async {
        let answer = reqwest::get(url).await.expect("an answer");
        answer.text().await.expect("a text")
    })
}

fn left_behind(stack: &Stack) {
    // The connector's property is in use, and Connect tells where it is from.
    let connect = stack.stores.url("FANOUT_CONNECT_URL");
    let config = get(&format!("{connect}/connectors/pg-engagement-cdc/config"));
    canary::is_silent(&config);
    assert!(
        config.contains("secrets.properties:connector.fanout.canary.passphrase}"),
        "{config}"
    );
    let pipeline = stack.stores.url("FANOUT_HTTP_URL");
    for path in ["/status", "/metrics"] {
        canary::is_silent(&get(&format!("{pipeline}{path}")));
    }
    for pid in proc::all() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        canary::is_silent(&String::from_utf8_lossy(&line));
    }
    closed(&stack.file(""));
    searched(stack.fanout.home());
}

/// All files below a folder, with their folders.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.clone());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
    }
}

/// A project's folders let nobody in but those who run its servers.
fn closed(project: &Path) {
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
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
        let what = below.iter().next().expect("a part");
        let found = mode_of(&path);
        // Data is behind a folder of the server's alone.
        let deep = below.iter().count() > 2;
        let wanted = match what.to_str().expect("utf-8") {
            "data" if deep => continue,
            "conf" => 0o027,
            _ => 0o077,
        };
        let is_top = below.iter().count() == 1 && path.is_dir();
        assert!(
            is_top || found & wanted == 0,
            "{} {found:o}",
            path.display()
        );
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").mode() & 0o777
}

/// No file has a secret in it but those that have to.
fn searched(folder: &Path) {
    let mut all = Vec::new();
    walk(folder, &mut all);
    for path in all.iter().filter(|path| path.is_file()) {
        // Kafka makes its indexes of 10 MB each, and fills them with numbers.
        let is_index = path
            .extension()
            .is_some_and(|kind| kind == "index" || kind == "timeindex");
        if is_index || HOLDERS.iter().any(|holder| path.ends_with(holder)) {
            continue;
        }
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let Some(at) = text.find(canary::MARK) else {
            continue;
        };
        let around: String = text[at..].chars().take(100).collect();
        panic!("{}: {around}", path.display());
    }
}
