//! What `up` decided and every other command has to know: the project's
//! runtime, each service's ports, and the endpoints as settings. Which process
//! a service is now is not here but with the process itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    files::{self, write_atomically},
    home::{Home, ProjectDir},
    native::process,
    ports::{self, Holder},
    proc,
};
use crate::{
    clients::docker::Address,
    config::Runtime,
    failure::{Failure, Kind},
    project::Project,
    secret::SecretUrl,
};

/// Format of the state file that this program writes and reads.
const FORMAT: u32 = 1;

/// A project as it was last brought up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// The project's name.
    pub project: String,
    /// The runtime of services that say nothing else.
    pub runtime: Runtime,
    /// The engine that runs its containers.
    #[serde(default)]
    docker_host: Option<String>,
    /// The folder of the certificates that go with it.
    #[serde(default)]
    docker_certificates: Option<PathBuf>,
    #[serde(default)]
    pub services: BTreeMap<String, ServiceState>,
    /// The endpoints as settings: dotted key → value. The file has them with
    /// their passwords.
    #[serde(default, serialize_with = "revealed")]
    pub settings: BTreeMap<String, SecretUrl>,
    /// Services that are not fanout's own and that the operator has agreed to
    /// have altered.
    #[serde(default)]
    agreed: BTreeSet<String>,
}

/// One service of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    pub runtime: Runtime,
    /// The way it is run, where it is run by fanout.
    pub variant: Option<String>,
    pub ports: BTreeMap<String, u16>,
}

fn revealed<S: Serializer>(
    settings: &BTreeMap<String, SecretUrl>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(key, url)| (key, url.reveal())))
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no state of a project: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{} has format {found}, and this program knows format {FORMAT}", path.display())]
    Format { path: PathBuf, found: u32 },
}

impl Failure for StateError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Write { .. } => "state_unreachable",
            Self::Malformed { .. } => "state_malformed",
            Self::Format { .. } => "state_format",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } | Self::Write { .. } => {
                Some("name a folder of your own: FANOUT_HOME=<folder> fanout …".to_owned())
            }
            Self::Malformed { .. } => Some("fanout reset".to_owned()),
            Self::Format { .. } => Some("use the fanout that brought the project up".to_owned()),
        }
    }
}

/// Only the number, to tell another format before reading it as this one.
#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

impl State {
    /// Where the engine that runs its containers is.
    #[must_use]
    pub fn engine(&self) -> Option<Address> {
        Some(Address {
            host: self.docker_host.clone()?,
            certificates: self.docker_certificates.clone(),
        })
    }

    /// Records the engine that runs its containers.
    pub fn set_engine(&mut self, address: &Address) {
        self.docker_host = Some(address.host.clone());
        self.docker_certificates.clone_from(&address.certificates);
    }

    /// A project of which nothing is there.
    #[must_use]
    pub fn new(project: &Project, runtime: Runtime) -> Self {
        Self {
            format: FORMAT,
            project: project.to_string(),
            runtime,
            docker_host: None,
            docker_certificates: None,
            services: BTreeMap::new(),
            settings: BTreeMap::new(),
            agreed: BTreeSet::new(),
        }
    }

    /// The operator agrees to have this service altered, which is not fanout's
    /// own.
    pub fn agree(&mut self, service: &str) {
        self.agreed.insert(service.to_owned());
    }

    /// Whether the operator has agreed to that.
    #[must_use]
    pub fn has_agreed(&self, service: &str) -> bool {
        self.agreed.contains(service)
    }

    /// Whether fanout may make things on this service: it is its own, or the
    /// operator has agreed.
    #[must_use]
    pub fn may_alter(&self, service: &str) -> bool {
        let known = self.services.get(service);
        let external = known.is_some_and(|known| known.runtime == Runtime::External);
        !external || self.has_agreed(service)
    }

    /// Whether some of it runs in containers.
    #[must_use]
    pub fn has_containers(&self) -> bool {
        let mut services = self.services.values();
        services.any(|service| service.runtime == Runtime::Docker)
    }

    /// The state in `dir`, none where the project was never brought up.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn load(dir: &ProjectDir) -> Result<Option<Self>, StateError> {
        // Whoever could write it could name servers of their own in it.
        files::check_own_folder(dir.path()).map_err(|source| StateError::Read {
            path: dir.path().to_owned(),
            source,
        })?;
        let path = dir.state();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        // Without the value that is wrong: it may hold a password.
        let malformed = |error: serde_json::Error| StateError::Malformed {
            path: path.clone(),
            reason: format!("line {}, column {}", error.line(), error.column()),
        };
        let formatted: Formatted = serde_json::from_str(&text).map_err(malformed)?;
        if formatted.format != FORMAT {
            return Err(StateError::Format {
                path,
                found: formatted.format,
            });
        }
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    /// Writes the state whole or not at all. Only its owner may read it: the
    /// endpoints have passwords in them.
    ///
    /// # Errors
    /// When the folder takes no file.
    pub fn save(&self, dir: &ProjectDir) -> Result<(), StateError> {
        let path = dir.state();
        let text = serde_json::to_string_pretty(self).map_err(|error| StateError::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        write_atomically(&path, text.as_bytes())
            .map_err(|source| StateError::Write { path, source })
    }
}

/// The endpoints that the project's services were given, as settings.
///
/// # Errors
/// When the state is there and cannot be read.
pub fn recorded_settings(
    home: &Home,
    project: &Project,
) -> Result<BTreeMap<String, SecretUrl>, StateError> {
    let state = State::load(&home.project(project))?;
    Ok(state.map(|state| state.settings).unwrap_or_default())
}

/// The projects of a home that were brought up.
#[must_use]
pub fn recorded_projects(home: &Home) -> Vec<Project> {
    let is_recorded = |project: &Project| home.project(project).state().exists();
    folders(home).filter(is_recorded).collect()
}

/// Whatever is in a home under the name of a project.
fn folders(home: &Home) -> impl Iterator<Item = Project> {
    let entries = fs::read_dir(home.path()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Ports of the other projects of a home that run, or are just brought up.
#[must_use]
pub fn ports_of_others(home: &Home, project: &Project) -> BTreeSet<u16> {
    folders(home)
        .filter(|other| other != project)
        .map(|other| home.project(&other))
        .filter_map(|dir| Some((State::load(&dir).ok().flatten()?, dir)))
        .filter(|(state, dir)| is_in_use(state, dir))
        .flat_map(|(state, _)| state.services.into_values())
        .flat_map(|service| service.ports.into_values())
        .collect()
}

/// The process on a port, with the service of a project of this home that it is
/// of, where it is.
#[must_use]
pub fn holder(home: &Home, port: u16) -> Option<Holder> {
    let mut holder = ports::holder(port)?;
    let of_project = recorded_projects(home).into_iter().find_map(|project| {
        let dir = home.project(&project);
        let state = State::load(&dir).ok().flatten()?;
        let mut services = state.services.into_keys();
        let service =
            services.find(|name| proc::holders_of(&dir.tether(name)).contains(&holder.pid))?;
        Some(format!("{service} of project {project}"))
    });
    if let Some(owner) = of_project {
        holder.command = format!("{}, {owner}", holder.command);
    }
    Some(holder)
}

/// Whether any process of a project runs, or somebody changes it. The ports of
/// containers that run are not free, which is seen without.
fn is_in_use(state: &State, dir: &ProjectDir) -> bool {
    let mut services = state.services.keys();
    services.any(|service| process::running(dir, service).is_some())
        || !proc::holders_of(&dir.lock()).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, ProjectDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        fs::create_dir_all(dir.path()).expect("made");
        (folder, dir)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_folder, dir) = place();
        assert_eq!(State::load(&dir).expect("readable"), None);
        let mut state = State::new(&Project::default(), Runtime::Native);
        state
            .settings
            .insert("redis.url".to_owned(), "redis://127.0.0.1:1".into());
        state.save(&dir).expect("written");
        assert_eq!(State::load(&dir).expect("readable"), Some(state));
    }

    #[test]
    fn only_what_is_external_wants_to_be_agreed_to() {
        let (_folder, dir) = place();
        let mut state = State::new(&Project::default(), Runtime::Native);
        for (name, runtime) in [("kafka", Runtime::External), ("redis", Runtime::Native)] {
            let service = ServiceState {
                runtime,
                variant: None,
                ports: BTreeMap::new(),
            };
            state.services.insert(name.to_owned(), service);
        }
        assert!(state.may_alter("redis") && !state.may_alter("kafka"));
        state.agree("kafka");
        state.save(&dir).expect("written");
        let state = State::load(&dir).expect("readable").expect("there");
        assert!(state.may_alter("kafka"));
    }

    #[test]
    fn a_state_of_before_consent_was_asked_for_has_none() {
        let (_folder, dir) = place();
        let text = r#"{"format": 1, "project": "fanout", "runtime": "native", "services":
            {"kafka": {"runtime": "external", "variant": null, "ports": {}}}}"#;
        fs::write(dir.state(), text).expect("written");
        let state = State::load(&dir).expect("readable").expect("there");
        assert!(!state.may_alter("kafka"));
    }

    #[test]
    fn another_format_is_refused_before_it_is_read() {
        let (_folder, dir) = place();
        fs::write(dir.state(), r#"{"format": 2, "future": true}"#).expect("written");
        let error = State::load(&dir).expect_err("refused");
        assert_eq!(error.code(), "state_format");
    }

    #[test]
    fn the_settings_of_a_project_never_brought_up_are_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let recorded = recorded_settings(&Home::at(folder.path()), &Project::default());
        assert!(recorded.expect("readable").is_empty());
    }
}
