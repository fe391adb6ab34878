//! The state file: decisions of `up` that every other command needs, which are
//! the project's runtime, the ports of each service, and the endpoints as
//! settings. A service's current process is recorded with the process instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    docker::engine::Address,
    files::{self, write_atomically},
    home::{Home, OTHER_HOME, ProjectDir},
    native::process,
    ports::{self, Holder},
    proc,
};
use crate::{
    config::{Runtime, project::Project},
    failure::{Command, Error, Failure, Hint, Kind},
    secret::SecretUrl,
};

/// Version of the state file format.
const FORMAT: u32 = 1;

/// State of a project, recorded when it was last started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// The project's name.
    pub project: String,
    /// Runtime of services without a configured one.
    pub runtime: Runtime,
    /// Address of the engine that runs the project's containers.
    #[serde(default)]
    docker_host: Option<String>,
    /// Folder of the TLS certificates for that engine.
    #[serde(default)]
    docker_certificates: Option<PathBuf>,
    #[serde(default)]
    pub services: BTreeMap<String, ServiceState>,
    /// The endpoints as settings: dotted key → value. In the file they include
    /// their passwords.
    #[serde(default, serialize_with = "serialize_revealed")]
    pub settings: BTreeMap<String, SecretUrl>,
    /// External services that the operator has allowed fanout to change.
    #[serde(default)]
    agreed: BTreeSet<String>,
}

/// State of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    pub runtime: Runtime,
    /// Variant of the definition, if fanout runs the service.
    pub variant: Option<String>,
    pub ports: BTreeMap<String, u16>,
}

fn serialize_revealed<S: Serializer>(
    settings: &BTreeMap<String, SecretUrl>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(key, url)| (key, url.reveal())))
}

/// Error while reading or writing the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is damaged.
    #[error(transparent)]
    Malformed(Error),
    #[error(transparent)]
    Other(Error),
}

impl StateError {
    fn inner(&self) -> &Error {
        match self {
            Self::Malformed(error) | Self::Other(error) => error,
        }
    }

    fn malformed(path: &Path, reason: impl fmt::Display) -> Self {
        let path = path.display();
        let message = format!("{path} is not a valid project state: {reason}");
        let error = Error::new(Kind::Environment, "state_malformed", message);
        Self::Malformed(error.with_hint(Command::new("reset")))
    }

    fn unreachable(message: String, source: io::Error) -> Self {
        let error = Error::new(Kind::Environment, "state_unreachable", message);
        Self::Other(error.with_hint(OTHER_HOME).caused_by(source))
    }

    fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::unreachable(format!("{} cannot be read", path.display()), source)
    }

    fn format(path: &Path, found: u32) -> Self {
        let path = path.display();
        let message =
            format!("{path} has format {found}, but this program supports format {FORMAT}");
        let error = Error::new(Kind::Environment, "state_format", message);
        Self::Other(error.with_hint("use the version of fanout that started the project"))
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Malformed(error) | StateError::Other(error) => error,
        }
    }
}

impl Failure for StateError {
    fn kind(&self) -> Kind {
        self.inner().kind()
    }

    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }

    fn structured_hint(&self) -> Option<&Hint> {
        self.inner().structured_hint()
    }
}

/// The format version alone, so that another version is detected before the
/// rest is parsed.
#[derive(Deserialize)]
struct FormatVersion {
    format: u32,
}

impl State {
    /// Returns the address of the engine that runs the project's containers.
    #[must_use]
    pub fn engine(&self) -> Option<Address> {
        Some(Address {
            host: self.docker_host.clone()?,
            certificates: self.docker_certificates.clone(),
        })
    }

    /// Records the address of the engine that runs the project's containers.
    pub fn set_engine(&mut self, address: &Address) {
        self.docker_host = Some(address.host.clone());
        self.docker_certificates.clone_from(&address.certificates);
    }

    /// Returns the state of a project without services.
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

    /// Records that the operator allows fanout to change this external service.
    pub fn agree(&mut self, service: &str) {
        self.agreed.insert(service.to_owned());
    }

    /// Returns whether the operator has allowed fanout to change this external
    /// service.
    #[must_use]
    pub fn has_agreed(&self, service: &str) -> bool {
        self.agreed.contains(service)
    }

    /// Returns whether fanout may create objects on this service: it is managed
    /// by fanout, or the operator has allowed it.
    #[must_use]
    pub fn may_alter(&self, service: &str) -> bool {
        let known = self.services.get(service);
        let external = known.is_some_and(|known| known.runtime == Runtime::External);
        !external || self.has_agreed(service)
    }

    /// Returns whether one of the services runs in a container.
    #[must_use]
    pub fn has_containers(&self) -> bool {
        let mut services = self.services.values();
        services.any(|service| service.runtime == Runtime::Docker)
    }

    /// Loads the state from `dir`. Returns `None` if the project has never been
    /// started.
    ///
    /// # Errors
    /// If the file exists and cannot be read or parsed.
    pub fn load(dir: &ProjectDir) -> Result<Option<Self>, StateError> {
        // Another user who can write the file could point fanout to other
        // servers.
        files::check_own_folder(dir.path())
            .map_err(|source| StateError::unreadable(dir.path(), source))?;
        let path = dir.state();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::unreadable(&path, source)),
        };
        // The invalid value is left out, because it may contain a password.
        let malformed = |error: serde_json::Error| {
            let position = format!("line {}, column {}", error.line(), error.column());
            StateError::malformed(&path, position)
        };
        let version: FormatVersion = serde_json::from_str(&text).map_err(malformed)?;
        if version.format != FORMAT {
            return Err(StateError::format(&path, version.format));
        }
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    /// Writes the state atomically. Only its owner may read it, because the
    /// endpoints contain passwords.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, dir: &ProjectDir) -> Result<(), StateError> {
        let path = dir.state();
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| StateError::malformed(&path, error))?;
        write_atomically(&path, text.as_bytes()).map_err(|source| {
            StateError::unreachable(format!("{} cannot be written", path.display()), source)
        })
    }
}

/// Returns the recorded endpoints of the project's services, as settings.
///
/// # Errors
/// If the state exists and cannot be read.
pub fn recorded_settings(
    home: &Home,
    project: &Project,
) -> Result<BTreeMap<String, SecretUrl>, StateError> {
    let state = State::load(&home.project(project))?;
    Ok(state.map(|state| state.settings).unwrap_or_default())
}

/// Returns the projects in a home that have a recorded state.
#[must_use]
pub fn recorded_projects(home: &Home) -> Vec<Project> {
    let is_recorded = |project: &Project| home.project(project).state().exists();
    folders(home).filter(is_recorded).collect()
}

/// Returns every entry of a home whose name is a valid project name.
fn folders(home: &Home) -> impl Iterator<Item = Project> {
    let entries = fs::read_dir(home.path()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the ports of the other projects in a home that are running or being
/// changed.
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

/// Returns the process that uses a port, and names its service if it belongs to
/// a project in this home.
#[must_use]
pub fn holder(home: &Home, port: u16) -> Option<Holder> {
    let mut holder = ports::holder(port)?;
    let service_name = recorded_projects(home).into_iter().find_map(|project| {
        let dir = home.project(&project);
        let state = State::load(&dir).ok().flatten()?;
        let mut services = state.services.into_keys();
        let service =
            services.find(|name| proc::holders_of(&dir.tether(name)).contains(&holder.pid))?;
        Some(format!("{service} of project {project}"))
    });
    if let Some(service_name) = service_name {
        holder.command = format!("{}, {service_name}", holder.command);
    }
    Some(holder)
}

/// Returns whether a process of the project runs or a command is changing it.
/// Ports of running containers are not free anyway, so they need no check.
fn is_in_use(state: &State, dir: &ProjectDir) -> bool {
    let mut services = state.services.keys();
    services.any(|service| process::running(dir, service).is_some())
        || !proc::holders_of(&dir.lock()).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project_dir() -> (tempfile::TempDir, ProjectDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = Home::at(folder.path()).project(&Project::default());
        fs::create_dir_all(dir.path()).expect("create the project folder");
        (folder, dir)
    }

    #[test]
    fn a_saved_state_is_loaded_unchanged() {
        let (_folder, dir) = project_dir();
        assert_eq!(State::load(&dir).expect("read the state"), None);
        let mut state = State::new(&Project::default(), Runtime::Native);
        state
            .settings
            .insert("redis.url".to_owned(), "redis://127.0.0.1:1".into());
        state.save(&dir).expect("write the state");
        assert_eq!(State::load(&dir).expect("read the state"), Some(state));
    }

    #[test]
    fn only_external_services_need_consent() {
        let (_folder, dir) = project_dir();
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
        state.save(&dir).expect("write the state");
        let state = State::load(&dir).expect("read the state").expect("a state");
        assert!(state.may_alter("kafka"));
    }

    #[test]
    fn a_state_without_recorded_consent_grants_none() {
        let (_folder, dir) = project_dir();
        let text = r#"{"format": 1, "project": "fanout", "runtime": "native", "services":
            {"kafka": {"runtime": "external", "variant": null, "ports": {}}}}"#;
        fs::write(dir.state(), text).expect("write the state");
        let state = State::load(&dir).expect("read the state").expect("a state");
        assert!(!state.may_alter("kafka"));
    }

    #[test]
    fn another_format_is_refused_before_it_is_parsed() {
        let (_folder, dir) = project_dir();
        fs::write(dir.state(), r#"{"format": 2, "future": true}"#).expect("write the state");
        let error = State::load(&dir).expect_err("refused");
        assert_eq!(error.code(), "state_format");
    }

    #[test]
    fn a_project_that_was_never_started_has_no_recorded_settings() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let recorded = recorded_settings(&Home::at(folder.path()), &Project::default());
        assert!(recorded.expect("read the state").is_empty());
    }
}
