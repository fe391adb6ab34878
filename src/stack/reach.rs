//! Whether a project's command may talk to the servers that it needs: those it
//! was brought up with, as long as they run, and those that the operator named.
//! What happens to listen on a default port is neither.

use super::{
    Site, State, StateError, choice,
    definition::{self, Definition, DefinitionError, MAIN_PORT},
    docker::{daemon::DaemonError, owner::Owner},
    endpoint,
    native::process,
    ports::{self, Holder, Look},
    resolve::is_explicit,
    state::{ServiceState, holder, recorded_projects},
};
use crate::{
    clients::docker::{Container, DockerError, Engine},
    config::{Config, Runtime, variable},
    failure::{Failure, Kind},
    project::Project,
    suggest::nearest,
};

/// What a command needs of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// That it runs.
    Running,
    /// That nobody else's server stands in its place. That it does not run is
    /// for the command to find.
    Ours,
    /// That it is known where it is.
    Placed,
}

/// Why a command may not talk to a server.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error("project {project} was never brought up{}", meant(similar.as_ref()))]
    NeverUp {
        project: String,
        /// A project of a similar name, which was.
        similar: Option<String>,
    },
    #[error("project {project} has no {}", unplaced(missing))]
    NotPlaced {
        project: String,
        /// Service and the setting that says where it is.
        missing: Vec<(String, String)>,
    },
    #[error("{}", stopped(project, services))]
    NotRunning {
        project: String,
        services: Vec<Stopped>,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("the container engine does not answer")]
    Docker(#[from] DockerError),
}

/// A service of the project that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub service: String,
    pub port: u16,
    /// Whether something else has its port.
    pub is_held: bool,
    /// None where the kernel does not let us see.
    pub holder: Option<Holder>,
}

fn meant(similar: Option<&String>) -> String {
    let did_you_mean = |name: &String| format!(" (did you mean \"{name}\"?)");
    similar.map(did_you_mean).unwrap_or_default()
}

fn unplaced(missing: &[(String, String)]) -> String {
    let one = |(service, key): &(String, String)| {
        format!("{service}: it was never brought up, and {key} is not configured")
    };
    let texts: Vec<String> = missing.iter().map(one).collect();
    texts.join("; no ")
}

fn stopped(project: &str, services: &[Stopped]) -> String {
    let held = |one: &Stopped| match (one.is_held, &one.holder) {
        (false, _) => None,
        (true, Some(Holder { pid, command })) => Some(format!(
            "port {} of {} is held by pid {pid} ({command})",
            one.port, one.service
        )),
        (true, None) => Some(format!(
            "port {} of {} is held by another user's process",
            one.port, one.service
        )),
    };
    let names: Vec<&str> = services.iter().map(|one| one.service.as_str()).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let mut text = format!(
        "{} of project {project} {verb} not running",
        names.join(", ")
    );
    for held in services.iter().filter_map(held) {
        text.push_str("; ");
        text.push_str(&held);
    }
    text
}

impl Failure for ReachError {
    fn kind(&self) -> Kind {
        match self {
            Self::NeverUp { .. } | Self::NotPlaced { .. } | Self::NotRunning { .. } => {
                Kind::Refused
            }
            Self::State(error) => error.kind(),
            Self::Definition(error) => error.kind(),
            Self::Daemon(error) => error.kind(),
            Self::Docker(_) => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NeverUp { .. } => "never_up",
            Self::NotPlaced { .. } => "not_configured",
            Self::NotRunning { .. } => "not_running",
            Self::State(error) => error.code(),
            Self::Definition(error) => error.code(),
            Self::Daemon(error) => error.code(),
            Self::Docker(_) => "docker_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NeverUp { .. } | Self::NotRunning { .. } => Some("fanout up".to_owned()),
            Self::NotPlaced { missing, .. } => {
                let variables = missing.iter().map(|(_, key)| variable(key));
                let variables: Vec<String> = variables.collect();
                Some(format!("fanout up, or set {}", variables.join(" and ")))
            }
            Self::State(error) => error.hint(),
            Self::Definition(error) => error.hint(),
            Self::Daemon(error) => error.hint(),
            Self::Docker(_) => Some("docker info".to_owned()),
        }
    }
}

/// Whether the project was ever brought up: for commands that look at what it
/// has on this machine and talk to no server.
///
/// # Errors
/// When it was not.
pub fn recorded(site: &Site) -> Result<State, ReachError> {
    match State::load(&site.dir())? {
        Some(state) => Ok(state),
        None => Err(never_up(site)),
    }
}

/// Whether the command may talk to each of these services.
///
/// # Errors
/// When one is neither of the project nor configured, or something else may be
/// where it was.
pub async fn check(site: &Site, config: &Config, uses: &[(&str, Need)]) -> Result<(), ReachError> {
    let state = State::load(&site.dir())?;
    let definitions = definition::services()?;
    let mut missing = Vec::new();
    let mut own = Vec::new();
    for (name, need) in uses {
        let Some(definition) = definitions.iter().find(|one| one.name == *name) else {
            continue;
        };
        let known = state.as_ref().and_then(|state| state.services.get(*name));
        match whose(definition, config, known) {
            Whose::Nobodys => missing.push((definition.name.clone(), definition.endpoint.clone())),
            Whose::Projects(known) if *need != Need::Placed => own.push((*name, known, *need)),
            Whose::Projects(_) | Whose::Operators => {}
        }
    }
    if missing.len() == uses.len() && state.is_none() {
        return Err(never_up(site));
    }
    let project = site.project.to_string();
    if !missing.is_empty() {
        return Err(ReachError::NotPlaced { project, missing });
    }
    let mut services = stopped_of(site, state.as_ref(), &own).await?;
    services.retain(|(one, need)| *need == Need::Running || one.is_held);
    if services.is_empty() {
        return Ok(());
    }
    let services = services.into_iter().map(|(one, _)| one).collect();
    Err(ReachError::NotRunning { project, services })
}

/// Whether it is known where a service is: the project has it, or the operator
/// has said so.
#[must_use]
pub fn is_placed(definition: &Definition, config: &Config, state: Option<&State>) -> bool {
    let known = state.and_then(|state| state.services.get(&definition.name));
    whose(definition, config, known) != Whose::Nobodys
}

fn never_up(site: &Site) -> ReachError {
    let project = site.project.to_string();
    let others = recorded_projects(&site.home);
    let similar = nearest(&project, others.iter().map(Project::as_str));
    ReachError::NeverUp {
        similar: similar.map(str::to_owned),
        project,
    }
}

/// Whose server a setting leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose<'a> {
    /// The operator named it.
    Operators,
    /// The project started it.
    Projects(&'a ServiceState),
    /// It is a default, and anything may be there.
    Nobodys,
}

fn whose<'a>(
    definition: &Definition,
    config: &Config,
    known: Option<&'a ServiceState>,
) -> Whose<'a> {
    let mut values = config.values.iter();
    let Some(value) = values.find(|value| value.key == definition.endpoint) else {
        return Whose::Nobodys;
    };
    let named = is_explicit(&value.origin);
    match known {
        Some(known) if known.runtime == Runtime::External => Whose::Operators,
        // A variable of `fanout env` names the project's own server too.
        Some(known) if !named || is_at(value.reveal().as_str(), known) => Whose::Projects(known),
        _ if named => Whose::Operators,
        _ => Whose::Nobodys,
    }
}

/// Whether an endpoint is where the project's own server was put.
fn is_at(url: Option<&str>, known: &ServiceState) -> bool {
    let place = url.and_then(endpoint::host_and_port);
    place.is_some_and(|(host, port)| {
        endpoint::is_loopback(&host) && known.ports.get(MAIN_PORT) == Some(&port)
    })
}

/// Those of the project's own services that do not run.
async fn stopped_of(
    site: &Site,
    state: Option<&State>,
    own: &[(&str, &ServiceState, Need)],
) -> Result<Vec<(Stopped, Need)>, ReachError> {
    let in_container = |known: &ServiceState| known.runtime == Runtime::Docker;
    let engine = if own.iter().any(|(_, known, _)| in_container(known)) {
        choice::engine_of(site, state).await?
    } else {
        None
    };
    let mut stopped = Vec::new();
    for (service, known, need) in own {
        let runs = match &engine {
            Some(engine) if in_container(known) => has_container(site, engine, service).await?,
            _ => process::running(&site.dir(), service).is_some(),
        };
        if !runs {
            stopped.push((Stopped::of(site, service, known), *need));
        }
    }
    Ok(stopped)
}

impl Stopped {
    fn of(site: &Site, service: &str, known: &ServiceState) -> Self {
        let port = known.ports.get(MAIN_PORT).copied().unwrap_or_default();
        let is_held = ports::look(port) == Look::Held;
        Self {
            service: service.to_owned(),
            port,
            is_held,
            holder: is_held.then(|| holder(&site.home, port)).flatten(),
        }
    }
}

async fn has_container(site: &Site, engine: &Engine, service: &str) -> Result<bool, DockerError> {
    let owner = Owner::of(site);
    let found = engine.container(&owner.container(service)).await?;
    let is_ours = |found: &Container| {
        let label = owner.check("container", &found.name, &found.labels);
        label.is_ok() && found.is_running()
    };
    Ok(found.as_ref().is_some_and(is_ours))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::TcpListener};

    use super::*;
    use crate::{
        config::{Layers, load},
        stack::{Home, docker::surroundings::Choice},
    };

    struct Fixture {
        _folder: tempfile::TempDir,
        site: Site,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Fixture {
            site: Site {
                project: Project::default(),
                home: Home::at(folder.path()),
                cache: folder.path().join("cache"),
                fanout: "fanout".into(),
                config_file: None,
                docker: Choice::default(),
            },
            _folder: folder,
        }
    }

    /// The project as it was last brought up: this service on this port, and
    /// stopped since.
    fn record(site: &Site, service: &str, key: &str, url: &str, port: u16) {
        let mut state = State::new(&site.project, Runtime::Native);
        let known = ServiceState {
            runtime: Runtime::Native,
            variant: None,
            ports: BTreeMap::from([("main".to_owned(), port)]),
        };
        state.services.insert(service.to_owned(), known);
        state.settings.insert(key.to_owned(), url.into());
        std::fs::create_dir_all(site.dir().path()).expect("made");
        state.save(&site.dir()).expect("saved");
    }

    fn config(site: &Site, env: &[(&str, &str)]) -> Config {
        let recorded = State::load(&site.dir()).expect("readable");
        let layers = Layers {
            recorded: recorded.map(|state| state.settings).unwrap_or_default(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Layers::default()
        };
        load(&layers).expect("valid")
    }

    async fn refused(site: &Site, config: &Config, uses: &[(&str, Need)]) -> String {
        let error = check(site, config, uses).await.expect_err("refused");
        assert_eq!(error.kind(), Kind::Refused);
        error.to_string()
    }

    #[tokio::test]
    async fn a_default_is_nobodys_server_and_one_that_is_named_is_the_operators() {
        let Fixture { site, _folder } = fixture();
        let uses = [("postgres", Need::Running), ("kafka", Need::Ours)];
        let nothing = config(&site, &[]);
        assert_eq!(
            refused(&site, &nothing, &uses).await,
            "project fanout was never brought up"
        );
        let half = config(
            &site,
            &[("FANOUT_POSTGRES_URL", "postgres://db.example/app")],
        );
        let error = check(&site, &half, &uses).await.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "project fanout has no kafka: it was never brought up, and kafka.brokers is not configured"
        );
        let hint = "fanout up, or set FANOUT_KAFKA_BROKERS";
        assert_eq!(error.hint().as_deref(), Some(hint));
        let all = [
            ("FANOUT_POSTGRES_URL", "postgres://db.example/app"),
            ("FANOUT_KAFKA_BROKERS", "log.example:9092"),
        ];
        let all = config(&site, &all);
        check(&site, &all, &uses).await.expect("all is configured");
    }

    #[tokio::test]
    async fn a_server_that_does_not_run_is_refused_and_a_holder_of_its_port_is_named() {
        let Fixture { site, _folder } = fixture();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("redis://127.0.0.1:{port}");
        record(&site, "redis", "redis.url", &url, port);
        let own = config(&site, &[]);
        let held = format!("port {port} of redis is held by pid {}", std::process::id());
        for need in [Need::Running, Need::Ours] {
            let said = refused(&site, &own, &[("redis", need)]).await;
            assert!(
                said.starts_with("redis of project fanout is not running; ")
                    && said.contains(&held),
                "{said}"
            );
        }
        // A variable that leads to the very same place changes nothing.
        let named = config(&site, &[("FANOUT_REDIS_URL", &url)]);
        refused(&site, &named, &[("redis", Need::Ours)]).await;
        let elsewhere = config(&site, &[("FANOUT_REDIS_URL", "redis://cache.example:6379")]);
        let uses = [("redis", Need::Running)];
        check(&site, &elsewhere, &uses).await.expect("named");
        drop(listener);
        assert_eq!(
            refused(&site, &own, &uses).await,
            "redis of project fanout is not running"
        );
        let ours = check(&site, &own, &[("redis", Need::Ours)]).await;
        ours.expect("nobody is in its place");
        let said = refused(&site, &own, &[("postgres", Need::Placed)]).await;
        assert!(said.contains("project fanout has no postgres"), "{said}");
    }

    #[test]
    fn a_misspelt_project_suggests_one_that_was_brought_up() {
        let Fixture { mut site, _folder } = fixture();
        record(&site, "redis", "redis.url", "redis://127.0.0.1:1", 1);
        site.project = "fanuot".parse().expect("a name");
        assert_eq!(
            recorded(&site).expect_err("never up").to_string(),
            "project fanuot was never brought up (did you mean \"fanout\"?)"
        );
    }
}
