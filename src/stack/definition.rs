//! Service definitions as data: one YAML file per service in `stack/`, and the
//! shared installs in `stack/native/installs.yaml`. [`super::resolve`] applies
//! them to this machine.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    assets,
    config::Runtime,
    failure::{Error, Kind},
};

/// Name of the port in a service's endpoint.
pub const MAIN_PORT: &str = "main";

/// Definition of one server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub name: String,
    /// Purpose of the service, in a few words.
    pub about: String,
    /// Setting with the address of the service: `kafka.brokers`.
    pub endpoint: String,
    /// Default ports by name. `main` is the port of the endpoint.
    pub ports: BTreeMap<String, u16>,
    /// Services that must be ready before this one starts.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Readiness probe.
    pub ready: Ready,
    /// Ways to run the service as a process, in order of preference: the first
    /// whose programs are all installed is used.
    #[serde(default)]
    pub native: Vec<Way>,
    /// Ways to run the service as a container: the one for the configured image
    /// is used, otherwise the first.
    #[serde(default)]
    pub docker: Vec<ContainerWay>,
}

/// Readiness probe of a service, in its own protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Ready {
    Postgres,
    Kafka,
    Redis,
    ClickHouse,
    /// A GET request to a path below the endpoint, which must return 2xx.
    Http {
        path: String,
        /// Expected response body, if it is checked.
        #[serde(default)]
        expect: Option<String>,
    },
}

/// One way to run a service as a process on this machine. Strings may contain
/// `{{placeholders}}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// Name of this way among several. Data of one variant is never opened by
    /// another.
    pub variant: String,
    /// Required programs, by their name in `{{program.NAME}}`.
    #[serde(default)]
    pub programs: BTreeMap<String, Program>,
    /// Required installs, by their name in `installs.yaml` and in
    /// `{{install.NAME}}`.
    #[serde(default)]
    pub installs: Vec<String>,
    /// Files written to `{{conf}}` before each start: name → asset.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Commands that create `{{data}}`; they run once.
    #[serde(default)]
    pub prepare: Vec<Prepare>,
    pub command: Vec<String>,
    /// Variables added to the environment that fanout provides; an empty value
    /// removes a variable.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether the service reads fanout's settings. If so, it also gets the
    /// `FANOUT_…` variables, and is restarted when a setting changes.
    #[serde(default)]
    pub settings: bool,
    #[serde(default)]
    pub user: User,
    #[serde(default)]
    pub stop: StopSignal,
    /// Pid file that the server writes into its data folder. It is removed
    /// before a start, because its pid may by now belong to a zombie or another
    /// process, which the server would take for itself.
    #[serde(default)]
    pub pid_file: Option<String>,
}

/// One way to run a service as a container. Strings may contain
/// `{{placeholders}}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerWay {
    /// Name of this way among several. Data of one variant is never opened by
    /// another.
    pub variant: String,
    /// Image with its tag. Another image with the same last name component is
    /// run in the same way.
    pub image: String,
    /// Published ports inside the container, by their name in the definition.
    pub ports: BTreeMap<String, u16>,
    /// Address for other containers: `kafka:9092`.
    #[serde(default)]
    pub inside: Option<String>,
    /// Command; if empty, the image's default.
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files copied into the container before each start: path → asset.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Volumes: name → folder. Data of one major version is never opened by
    /// another, so the name contains it: `{{image.major}}`.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
    #[serde(default)]
    pub health: Option<HealthWay>,
}

/// Health check that the engine runs in the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthWay {
    /// Command run inside the container; exit code 0 means healthy.
    pub command: Vec<String>,
    pub interval_seconds: u64,
}

impl Definition {
    /// Returns the runtime of the service in a project with runtime `project`:
    /// the configured one if set, otherwise the project's. A service without a
    /// container runs as a process in a docker project. Returns `None` if the
    /// project does not have this service.
    #[must_use]
    pub fn runtime(&self, configured: Option<Runtime>, project: Runtime) -> Option<Runtime> {
        let has = |runtime| match runtime {
            Runtime::Docker => !self.docker.is_empty(),
            Runtime::Native => !self.native.is_empty(),
            Runtime::External => true,
        };
        let fallback = || (project == Runtime::Docker).then_some(Runtime::Native);
        configured
            .or_else(|| has(project).then_some(project))
            .or_else(|| fallback().filter(|runtime| has(*runtime)))
    }

    /// Returns the way to run `image`: the one whose image has the same last
    /// name component, otherwise the first.
    #[must_use]
    pub fn container_way(&self, image: Option<&str>) -> Option<&ContainerWay> {
        let find_way = |image: &str| {
            let mut ways = self.docker.iter();
            ways.find(|way| short_name(&way.image) == short_name(image))
        };
        image.and_then(find_way).or(self.docker.first())
    }
}

/// `quay.io/debezium/connect:3.6` → `connect`.
fn short_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let end = last.find([':', '@']).unwrap_or(last.len());
    &last[..end]
}

/// A program that must be installed on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Debian package of the program, for the hint.
    pub debian: String,
    /// Folders searched after PATH. A path component may contain one `*`; the
    /// highest version is tried first.
    #[serde(default)]
    pub also_in: Vec<String>,
    /// Another program from whose folder this one must come.
    #[serde(default)]
    pub beside: Option<String>,
    /// Minimum major version.
    #[serde(default)]
    pub at_least: Option<u32>,
    /// File in the data folder with the major version that created the data.
    /// Only the same version can open the data. The version is appended to the
    /// name of the Debian package.
    #[serde(default)]
    pub made_by: Option<String>,
}

/// One command that prepares the data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    pub run: Vec<String>,
    /// Standard input of the command.
    #[serde(default)]
    pub input: String,
}

/// User that a process runs as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// The user that runs fanout.
    #[default]
    Own,
    /// The user that runs fanout, but never root.
    Unprivileged,
}

/// Signal that asks a process to exit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    #[default]
    Term,
    Int,
}

/// Files downloaded once into the cache and shared by all projects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// Folder in the cache. Its name contains the version, so that each version
    /// has its own folder.
    pub folder: String,
    pub from: Source,
}

/// Origin of an install.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The dependencies of a `pom.xml`, stored as jars in a folder below the
    /// install's folder, and the list of their checksums.
    Maven {
        pom: String,
        into: String,
        checksums: String,
    },
    /// A virtual environment with the packages of a `requirements.txt`.
    Python { requirements: String },
}

/// Returns the error for a definition that cannot be used. Definitions are part
/// of the binary, so this is a bug in fanout.
pub(super) fn unusable(message: impl Into<String>) -> Error {
    Error::new(Kind::Failed, "stack_definition", message)
}

fn missing(path: &str) -> Error {
    unusable(format!("{path} is not part of this program"))
}

/// Returns all services, ordered by name.
///
/// # Errors
/// If a definition is malformed.
pub fn services() -> Result<Vec<Definition>, Error> {
    assets::under("stack/")
        .filter(|asset| {
            let name = asset.path.strip_prefix("stack/");
            let name = name.and_then(|name| name.strip_suffix(".yaml"));
            name.is_some_and(|name| !name.contains('/'))
        })
        .map(|asset| read(asset.path))
        .collect()
}

/// Returns all installs by name.
///
/// # Errors
/// If `installs.yaml` is malformed.
pub fn installs() -> Result<BTreeMap<String, Install>, Error> {
    read("stack/native/installs.yaml")
}

/// Returns the text of an asset below `stack/`.
///
/// # Errors
/// If the asset does not exist.
pub fn asset(name: &str) -> Result<&'static str, Error> {
    let path = format!("stack/{name}");
    assets::text(&path).ok_or_else(|| missing(&path))
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T, Error> {
    let text = assets::text(path).ok_or_else(|| missing(path))?;
    serde_saphyr::from_str(text)
        .map_err(|error| unusable(format!("{path} is not a valid definition: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_definition_is_valid_and_named_like_its_file() {
        let services = services().expect("valid definitions");
        let names: BTreeSet<&str> = services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        let files: BTreeSet<&str> = assets::under("stack/")
            .filter_map(|asset| asset.path.strip_prefix("stack/")?.strip_suffix(".yaml"))
            .filter(|name| !name.contains('/'))
            .collect();
        assert_eq!(names, files);
    }

    #[test]
    fn every_reference_in_a_definition_exists() {
        let services = services().expect("valid definitions");
        let installs = installs().expect("valid installs");
        for service in &services {
            assert!(service.ports.contains_key(MAIN_PORT), "{}", service.name);
            for need in &service.needs {
                assert!(services.iter().any(|other| other.name == *need), "{need}");
            }
            for way in &service.docker {
                for name in way.files.values() {
                    asset(name).expect("an asset");
                }
                for name in way.ports.keys() {
                    assert!(service.ports.contains_key(name), "{name}");
                }
                assert!(way.ports.contains_key(MAIN_PORT), "{}", service.name);
            }
            for way in &service.native {
                for name in way.files.values() {
                    asset(name).expect("an asset");
                }
                for name in &way.installs {
                    assert!(installs.contains_key(name), "{name}");
                }
                for program in way.programs.values() {
                    let beside = program.beside.as_ref();
                    assert!(beside.is_none_or(|other| way.programs.contains_key(other)));
                }
            }
        }
    }

    #[test]
    fn a_service_runs_like_its_project_if_possible() {
        use Runtime::{Docker, External, Native};
        let services = services().expect("valid definitions");
        let runtime = |name: &str, configured, project| {
            let service = services.iter().find(|service| service.name == name);
            service.expect("a service").runtime(configured, project)
        };
        assert_eq!(runtime("redis", None, Docker), Some(Docker));
        assert_eq!(runtime("redis", None, Native), Some(Native));
        assert_eq!(runtime("redis", Some(External), Docker), Some(External));
        // fanout's own services have no container, and Console has nothing
        // else.
        assert_eq!(runtime("stub", None, Docker), Some(Native));
        assert_eq!(runtime("console", None, Native), None);
    }

    #[test]
    fn an_image_with_the_same_name_is_run_in_the_same_way() {
        let services = services().expect("valid definitions");
        let kafka = services.iter().find(|service| service.name == "kafka");
        let way = |image| kafka.expect("a service").container_way(image);
        let variant = |image| way(image).expect("a way").variant.as_str();
        assert_eq!(variant(None), "redpanda");
        assert_eq!(variant(Some("apache/kafka:4.0.0")), "kafka");
        assert_eq!(
            variant(Some("localhost:5000/mirror/kafka@sha256:1")),
            "kafka"
        );
        assert_eq!(variant(Some("mine/of-my-own")), "redpanda");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = "name: x\nabout: y\nendpoint: z\nports: {}\nready: redis\nnativ: []\n";
        let error = serde_saphyr::from_str::<Definition>(text).expect_err("refused");
        assert!(error.to_string().contains("nativ"), "{error}");
    }
}
