//! The caller's environment has no effect: neither variables that interpreters
//! and clients read, nor the umask, nor a folder with blanks in its name.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Fanout, Stack},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[(
    "a_hostile_environment_makes_no_difference",
    hostile_environment,
)];

/// Variables that would break one of the programs. `LD_PRELOAD` is not among
/// them, because the loader would report it before fanout runs.
const HOSTILE: &[(&str, &str)] = &[
    ("ALL_PROXY", "http://127.0.0.1:1"),
    ("CLASSPATH", "/nonsense"),
    ("HOME", "/nonsense"),
    ("HTTPS_PROXY", "http://127.0.0.1:1"),
    ("HTTP_PROXY", "http://127.0.0.1:1"),
    ("JAVA_HOME", "/nonsense"),
    ("JAVA_TOOL_OPTIONS", "-Xnonsense"),
    ("JDK_JAVA_OPTIONS", "-Xnonsense"),
    ("KAFKA_HEAP_OPTS", "-Xnonsense"),
    ("KAFKA_OPTS", "-Xnonsense"),
    ("LANG", "xx_XX"),
    ("LC_ALL", "xx_XX"),
    ("LD_LIBRARY_PATH", "/nonsense"),
    ("PGDATA", "/nonsense"),
    ("PGDATABASE", "nonsense"),
    ("PGHOST", "/nonsense"),
    ("PGPASSWORD", "nonsense"),
    ("PGPORT", "1"),
    ("PGUSER", "nonsense"),
    ("PYTHONHOME", "/nonsense"),
    ("PYTHONPATH", "/nonsense"),
    ("PYTHONSTARTUP", "/nonsense"),
    ("RUST_LOG", "nonsense=nonsense"),
    ("SSL_CERT_DIR", "/nonsense"),
    ("SSL_CERT_FILE", "/nonsense"),
    ("TMPDIR", "/nonsense"),
    ("TZ", "Mars/Olympus"),
    ("XDG_CONFIG_HOME", "/nonsense"),
    ("_JAVA_OPTIONS", "-Xnonsense"),
    ("all_proxy", "http://127.0.0.1:1"),
    ("http_proxy", "http://127.0.0.1:1"),
];

/// The services under test. Connect is left out because it gets the same
/// variables as Kafka.
const SERVICES: [&str; 5] = ["postgres", "redis", "clickhouse", "kafka", "stub"];

fn hostile_environment(stack: &Stack) {
    let home = stack.fanout.home().join("a home (1)");
    fs::create_dir(&home).expect("create the home");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755))
        .expect("open the home to all users");
    let mut fanout = Fanout::at(&home);
    // The cache is set explicitly because its default location depends on
    // `HOME`.
    let cache = fanout::stack::cache_from_env().expect("the cache of this stack");
    fanout = fanout.with("FANOUT_CACHE", cache.to_str().expect("a path in UTF-8"));
    for (variable, value) in HOSTILE {
        fanout = fanout.with(variable, value);
    }
    let up = ["--runtime", "native", "up", "--ports", "auto"];
    let line = [&up[..], &SERVICES].concat();
    run_with_umask(&fanout, "0777", &line);
    let status = fanout.document(0, &["status"]);
    let mut pids = Vec::new();
    for service in status["services"].as_array().expect("services") {
        let name = service["name"].as_str().expect("a name");
        if SERVICES.contains(&name) {
            assert_eq!(service["state"], "ready", "{service}");
            pids.push((name, service["pid"].as_i64().expect("a pid")));
        }
    }
    assert_eq!(pids.len(), SERVICES.len(), "{status:#}");
    for (name, pid) in pids {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("read the environment");
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let inherited = HOSTILE.iter().find(|(variable, value)| {
            environment
                .split('\0')
                .any(|entry| entry == format!("{variable}={value}"))
        });
        assert_eq!(inherited, None, "{name}");
        // Redis overwrites its environment with its process title.
        for variable in ["LANG=C.UTF-8", "TZ=UTC"] {
            let is_set = environment.contains(variable) || name == "redis";
            assert!(is_set, "{name}: {environment}");
        }
    }
    let seeded = fanout.document(0, &["seed", "--events", "1"]);
    assert_eq!(seeded["ok"], Json::Bool(true), "{seeded:#}");
    fanout.run(&["down"]).ends_with(0);
    fanout.run(&["reset", "--yes"]).ends_with(0);
}

/// Calls the binary with another umask, through a shell.
fn run_with_umask(fanout: &Fanout, umask: &str, arguments: &[&str]) {
    let inner = fanout.command(arguments);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask \"$0\"; exec \"$@\"", umask])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fanout.home());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = shell.output().expect("run a shell");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
