//! What a service is, as data: one YAML file each in `stack/`, and the shared
//! installs of `stack/native/installs.yaml`. What a definition becomes on this
//! machine is [`super::resolve`]'s business.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    assets,
    config::Runtime,
    failure::{Failure, Kind},
};

/// The port that a service's endpoint names.
pub const MAIN_PORT: &str = "main";

/// One server of the stack.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub name: String,
    /// What it is for, in a few words.
    pub about: String,
    /// The setting that says where it is: `kafka.brokers`.
    pub endpoint: String,
    /// Default ports by name. `main` is the endpoint's.
    pub ports: BTreeMap<String, u16>,
    /// Services that have to be ready before it starts.
    #[serde(default)]
    pub needs: Vec<String>,
    /// What proves that it serves.
    pub ready: Ready,
    /// How it runs as a process: the first way whose programs are all there.
    #[serde(default)]
    pub native: Vec<Way>,
    /// How it runs as a container: the way of the configured image, else the
    /// first.
    #[serde(default)]
    pub docker: Vec<ContainerWay>,
}

/// The probe of a service, in its own protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Ready {
    Postgres,
    Kafka,
    Redis,
    ClickHouse,
    /// A GET below the endpoint that answers 2xx.
    Http {
        path: String,
        /// The whole answer, where it matters.
        #[serde(default)]
        expect: Option<String>,
    },
}

/// One way to run a service as a process of this machine. Texts may hold
/// `{{placeholders}}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// Told apart by this where there are several. Data made in one way is
    /// never opened in another.
    pub variant: String,
    /// Programs of the machine, by the name that `{{program.NAME}}` has.
    #[serde(default)]
    pub programs: BTreeMap<String, Program>,
    /// Installs, by their name in `installs.yaml`: `{{install.NAME}}`.
    #[serde(default)]
    pub installs: Vec<String>,
    /// Files written into `{{conf}}` before each start: name → asset.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Commands that make `{{data}}`, run once.
    #[serde(default)]
    pub prepare: Vec<Prepare>,
    pub command: Vec<String>,
    /// Laid over fanout's own environment; what comes out empty is left out.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// It reads fanout's settings: it is given the `FANOUT_…` variables too,
    /// and starts anew when a setting changes.
    #[serde(default)]
    pub settings: bool,
    #[serde(default)]
    pub user: User,
    #[serde(default)]
    pub stop: StopSignal,
    /// A file in its data by which the server says that it runs. It is removed
    /// before a start: a pid in it may be a zombie's, or another process's by
    /// now, and the server would take that for itself.
    #[serde(default)]
    pub pid_file: Option<String>,
}

/// One way to run a service as a container. Texts may hold `{{placeholders}}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerWay {
    /// Told apart by this where there are several.
    pub variant: String,
    /// With its tag. Another image of the same last name is run in this way.
    pub image: String,
    /// Ports inside, by their name in the definition; these are published.
    pub ports: BTreeMap<String, u16>,
    /// Where other containers find it: `kafka:9092`.
    #[serde(default)]
    pub inside: Option<String>,
    /// The image's own where it is empty.
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files put into it before each start: path → asset.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What it keeps: volume → folder. Data of one major version is never
    /// opened by another, so the name has it: `{{image.major}}`.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
    #[serde(default)]
    pub health: Option<HealthWay>,
}

/// How the engine asks a container whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthWay {
    /// Run inside; well is who ends with 0.
    pub command: Vec<String>,
    pub interval_seconds: u64,
}

impl Definition {
    /// How the service is run in a project of `project`'s runtime: as it is
    /// `wished`, else in a container where it has one and the project's are,
    /// else as a process. None where the project has no such service.
    #[must_use]
    pub fn runtime(&self, wished: Option<Runtime>, project: Runtime) -> Option<Runtime> {
        let has = |runtime| match runtime {
            Runtime::Docker => !self.docker.is_empty(),
            Runtime::Native => !self.native.is_empty(),
            Runtime::External => true,
        };
        let fallback = || (project == Runtime::Docker).then_some(Runtime::Native);
        wished
            .or_else(|| has(project).then_some(project))
            .or_else(|| fallback().filter(|runtime| has(*runtime)))
    }

    /// The way to run `image`: that of the image of the same last name, else
    /// the first.
    #[must_use]
    pub fn container_way(&self, image: Option<&str>) -> Option<&ContainerWay> {
        let of_image = |image: &str| {
            let mut ways = self.docker.iter();
            ways.find(|way| last_name(&way.image) == last_name(image))
        };
        image.and_then(of_image).or(self.docker.first())
    }
}

/// `quay.io/debezium/connect:3.6` → `connect`.
fn last_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let end = last.find([':', '@']).unwrap_or(last.len());
    &last[..end]
}

/// A program that has to be on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The Debian package that has it, for the hint.
    pub debian: String,
    /// Folders looked in after PATH; one `*` a part, the highest version first.
    #[serde(default)]
    pub also_in: Vec<String>,
    /// It has to come from the folder of this other program.
    #[serde(default)]
    pub beside: Option<String>,
    /// Oldest major version that will do.
    #[serde(default)]
    pub at_least: Option<u32>,
    /// A file in the data with the major version that made it, the only one
    /// that opens it. Debian's package of that has it behind its name.
    #[serde(default)]
    pub made_by: Option<String>,
}

/// One command of a preparation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    pub run: Vec<String>,
    /// What it reads from stdin.
    #[serde(default)]
    pub input: String,
}

/// Whose rights a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// fanout's own.
    #[default]
    Own,
    /// fanout's own, but never root's.
    Unprivileged,
}

/// The signal that asks a process to end in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    #[default]
    Term,
    Int,
}

/// Something downloaded once into the cache and shared by all projects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// Its folder in the cache; names the version, so that another version is
    /// another folder.
    pub folder: String,
    pub from: Source,
}

/// Where an install comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The dependencies of a `pom.xml`, as jars in a folder below the install's,
    /// and the list of their checksums.
    Maven {
        pom: String,
        into: String,
        checksums: String,
    },
    /// A virtual environment with the packages of a `requirements.txt`.
    Python { requirements: String },
}

/// Why the definitions cannot be used. They are part of the binary, so this is
/// fanout's own mistake.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("{path} is no valid definition: {reason}")]
    Invalid { path: String, reason: String },
    #[error("{path} is not part of this program")]
    Missing { path: String },
}

impl Failure for DefinitionError {
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    fn code(&self) -> &'static str {
        "stack_definition"
    }
}

/// All services, ordered by name.
///
/// # Errors
/// When a definition is malformed.
pub fn services() -> Result<Vec<Definition>, DefinitionError> {
    assets::under("stack/")
        .filter(|asset| {
            let name = asset.path.strip_prefix("stack/");
            let name = name.and_then(|name| name.strip_suffix(".yaml"));
            name.is_some_and(|name| !name.contains('/'))
        })
        .map(|asset| read(asset.path))
        .collect()
}

/// All installs by name.
///
/// # Errors
/// When `installs.yaml` is malformed.
pub fn installs() -> Result<BTreeMap<String, Install>, DefinitionError> {
    read("stack/native/installs.yaml")
}

/// The text of an asset that a definition names, which is below `stack/`.
///
/// # Errors
/// When there is none.
pub fn asset(name: &str) -> Result<&'static str, DefinitionError> {
    let path = format!("stack/{name}");
    assets::text(&path).ok_or(DefinitionError::Missing { path })
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T, DefinitionError> {
    let text = assets::text(path).ok_or_else(|| DefinitionError::Missing {
        path: path.to_owned(),
    })?;
    serde_saphyr::from_str(text).map_err(|error| DefinitionError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_definition_is_valid_and_named_like_its_file() {
        let services = services().expect("valid definitions");
        let names: BTreeSet<&str> = services.iter().map(|one| one.name.as_str()).collect();
        let files: BTreeSet<&str> = assets::under("stack/")
            .filter_map(|asset| asset.path.strip_prefix("stack/")?.strip_suffix(".yaml"))
            .filter(|name| !name.contains('/'))
            .collect();
        assert_eq!(names, files);
    }

    #[test]
    fn what_a_definition_refers_to_is_there() {
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
    fn a_service_is_run_as_the_project_is_where_it_can_be() {
        use Runtime::{Docker, External, Native};
        let services = services().expect("valid definitions");
        let of = |name: &str, wished, project| {
            let service = services.iter().find(|one| one.name == name);
            service.expect("a service").runtime(wished, project)
        };
        assert_eq!(of("redis", None, Docker), Some(Docker));
        assert_eq!(of("redis", None, Native), Some(Native));
        assert_eq!(of("redis", Some(External), Docker), Some(External));
        // Of fanout's own there is no container, of Console nothing else.
        assert_eq!(of("stub", None, Docker), Some(Native));
        assert_eq!(of("console", None, Native), None);
    }

    #[test]
    fn another_image_of_the_same_name_is_run_in_the_same_way() {
        let services = services().expect("valid definitions");
        let kafka = services.iter().find(|one| one.name == "kafka");
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
