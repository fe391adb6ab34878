//! The stack under test, and the engine asked directly: what fanout says of
//! itself is no evidence.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    binary::{Ended, Fanout},
    guard::Guard,
    trials::Subject,
};

/// How long anything may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The images that stand in for the official ones, below their registry.
const STAND_INS: [(&str, &str); 6] = [
    ("postgres", "postgres:17"),
    ("redis", "redis:8.2.2"),
    ("kafka", "apache/kafka:4.3.1"),
    ("connect", "debezium/connect:3.6.0.Final"),
    ("clickhouse", "clickhouse/clickhouse-server:25.8"),
    ("console", "redpandadata/console:v3.7.2"),
];

/// The services that run in containers.
pub const SERVICES: [&str; 6] = [
    "clickhouse",
    "connect",
    "console",
    "kafka",
    "postgres",
    "redis",
];

/// A project in a home of its own. The name is none that an operator has.
pub struct Stack {
    pub fanout: Fanout,
    pub project: String,
    images: BTreeMap<String, String>,
    _guard: Guard,
}

/// The name that a stand-in is pulled by. Those of the official images that are
/// pinned by digest are so too.
fn stand_in(registry: &str, image: &str) -> String {
    const PINNED: [&str; 2] = ["postgres:17", "clickhouse/clickhouse-server:25.8"];
    let name = format!("{registry}/{image}");
    if !PINNED.contains(&image) {
        return name;
    }
    let (repository, tag) = image.split_once(':').expect("a tag");
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--head", "--header"])
        .arg("Accept: application/vnd.docker.distribution.manifest.v2+json")
        .arg(format!("http://{registry}/v2/{repository}/manifests/{tag}"))
        .output()
        .expect("curl");
    let headers = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let digest = headers
        .lines()
        .find_map(|line| line.strip_prefix("docker-content-digest:"));
    let digest = digest.unwrap_or_else(|| panic!("no digest of {name}: {headers}"));
    format!("{name}@{}", digest.trim())
}

impl Stack {
    pub fn new(images: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("fanout-docker-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .expect("a folder");
        let home = folder.keep();
        let project = format!("fanout-test-{}", std::process::id());
        let fanout = Fanout::at(&home).with("FANOUT_PROJECT", &project);
        let images = match images {
            "official" => BTreeMap::new(),
            registry => STAND_INS
                .iter()
                .map(|(service, image)| ((*service).to_owned(), stand_in(registry, image)))
                .collect(),
        };
        let stack = Self {
            _guard: Guard::new(&fanout, &home),
            fanout,
            project,
            images,
        };
        stack.configure(&[]);
        stack
    }

    /// Writes `fanout.yaml`: the images, and these settings of services.
    pub fn configure(&self, more: &[(&str, &str)]) {
        let mut services: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (service, image) in &self.images {
            services
                .entry(service)
                .or_default()
                .push(format!("image: \"{image}\""));
        }
        for (service, setting) in more {
            services
                .entry(service)
                .or_default()
                .push((*setting).to_owned());
        }
        let mut text = "services:\n".to_owned();
        for (service, settings) in services {
            text.push_str(&format!("  {service}: {{{}}}\n", settings.join(", ")));
        }
        if text == "services:\n" {
            text.clear();
        }
        fs::write(self.fanout.home().join("fanout.yaml"), text).expect("written");
    }

    /// The image that stands in for a service's official one, where one does.
    pub fn stand_in(&self, service: &str) -> Option<&str> {
        self.images.get(service).map(String::as_str)
    }

    /// The image of Redis, as it is pulled here.
    pub fn image_of_redis(&self) -> &str {
        self.stand_in("redis").unwrap_or("redis:8.2.2")
    }

    /// The same home under another project's name.
    pub fn other(&self, name: &str) -> Fanout {
        let name = format!("{}-{name}", self.project);
        self.fanout.with("FANOUT_PROJECT", &name)
    }

    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    /// `up` on whatever ports are free, which has to work.
    #[track_caller]
    pub fn up(&self) -> Ended {
        self.fanout.run(&["up", "--ports", "auto"]).ends_with(0)
    }

    /// The ids of the project's containers, by service.
    pub fn ids(&self) -> BTreeMap<String, String> {
        let label = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Label \"com.docker.compose.service\"}} {{.ID}}";
        let listed = docker(&["ps", "-a", "--filter", &label, "--format", format]);
        let pairs = listed.lines().filter_map(|line| line.split_once(' '));
        pairs
            .map(|(service, id)| (service.to_owned(), id.to_owned()))
            .collect()
    }

    /// The services whose containers are not those of `before`.
    pub fn changed(&self, before: &BTreeMap<String, String>) -> Vec<String> {
        let after = self.ids();
        let other = after
            .into_iter()
            .filter(|(service, id)| before.get(service) != Some(id));
        other.map(|(service, _)| service).collect()
    }
}

impl Subject for Stack {
    fn evidence(&self) -> String {
        let status = self.fanout.run(&["status"]).evidence();
        let logs = self.fanout.run(&["logs", "--tail", "10"]).evidence();
        format!("{status}\n{logs}\n{}", docker(&["ps", "-a"]))
    }
}

/// Asks the engine by the docker command, which has to do it.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output();
    let output = output.expect("the docker command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "docker {}\n{text}{errors}",
        arguments.join(" ")
    );
    text
}

/// Looks again and again until it holds.
pub fn eventually(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(instead) = look() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in time\n{instead}");
        thread::sleep(Duration::from_millis(100));
    }
}
