//! Decides whether a command may connect to its servers. It may connect to the
//! project's own running servers and to servers that the operator configured,
//! but not to a server that merely listens on a default port.

use super::{
    Site, State, choice,
    definition::{self, Definition, MAIN_PORT},
    docker::{
        engine::{Container, DockerError, Engine},
        labels::ResourceLabels,
    },
    endpoint,
    native::process,
    ports::{self, Availability, Holder},
    resolve::is_explicit,
    state::{ServiceState, holder, recorded_projects},
};
use crate::{
    config::{Config, Runtime, project::Project, variable},
    failure::{Command, Error, Hint, Kind},
    text::suggest::nearest,
};

/// How a command depends on a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The service must be running.
    Running,
    /// No foreign server may use its port. The command itself handles a service
    /// that is not running.
    NotForeign,
    /// Its address must be known.
    Located,
}

/// A project service that is not running.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stopped {
    service: String,
    port: u16,
    /// Whether another process uses its port.
    is_in_use: bool,
    /// The process that uses the port; `None` if it cannot be identified.
    holder: Option<Holder>,
}

fn describe_missing(missing: &[(String, String)]) -> String {
    let describe = |(service, key): &(String, String)| {
        format!("{service}: it has never been started, and {key} is not configured")
    };
    let texts: Vec<String> = missing.iter().map(describe).collect();
    texts.join("; nor for ")
}

fn stopped(project: &str, services: &[Stopped]) -> String {
    let describe_holder = |service: &Stopped| match (service.is_in_use, &service.holder) {
        (false, _) => None,
        (true, Some(Holder { pid, command })) => Some(format!(
            "port {} of {} is in use by pid {pid} ({command})",
            service.port, service.service
        )),
        (true, None) => Some(format!(
            "port {} of {} is in use by another user's process",
            service.port, service.service
        )),
    };
    let names: Vec<&str> = services
        .iter()
        .map(|service| service.service.as_str())
        .collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let mut text = format!(
        "{} of project {project} {verb} not running",
        names.join(", ")
    );
    for holder in services.iter().filter_map(describe_holder) {
        text.push_str("; ");
        text.push_str(&holder);
    }
    text
}

/// Returns the error for a server that a command must not use.
fn refused(code: &'static str, message: String, hint: impl Into<Hint>) -> Error {
    Error::new(Kind::Refused, code, message).with_hint(hint)
}

/// Returns the project's recorded state, for commands that read local files and
/// connect to no server.
///
/// # Errors
/// If the project has never been started.
pub fn load_recorded_state(site: &Site) -> Result<State, Error> {
    State::load(&site.dir())?.ok_or_else(|| never_up(site))
}

/// Checks that the command may connect to each of these services.
///
/// # Errors
/// If a service is neither started by the project nor configured, or another
/// process may use its port.
pub async fn check(site: &Site, config: &Config, uses: &[(&str, Need)]) -> Result<(), Error> {
    let state = State::load(&site.dir())?;
    let definitions = definition::services()?;
    let mut missing = Vec::new();
    let mut started = Vec::new();
    for (name, need) in uses {
        let Some(definition) = definitions
            .iter()
            .find(|definition| definition.name == *name)
        else {
            continue;
        };
        let known = state.as_ref().and_then(|state| state.services.get(*name));
        match server_origin(definition, config, known) {
            ServerOrigin::Default => {
                missing.push((definition.name.clone(), definition.endpoint.clone()));
            }
            ServerOrigin::Project(known) if *need != Need::Located => {
                started.push((*name, known, *need));
            }
            ServerOrigin::Project(_) | ServerOrigin::Configured => {}
        }
    }
    if missing.len() == uses.len() && state.is_none() {
        return Err(never_up(site));
    }
    let project = site.project.to_string();
    if !missing.is_empty() {
        let variables: Vec<String> = missing.iter().map(|(_, key)| variable(key)).collect();
        let hint = format!(", or set {}", variables.join(" and "));
        let missing = describe_missing(&missing);
        return Err(refused(
            "not_configured",
            format!("project {project} has no address for {missing}"),
            Hint::from(Command::new("up")).text(hint),
        ));
    }
    let mut services = stopped_services(site, state.as_ref(), &started).await?;
    services.retain(|(service, need)| *need == Need::Running || service.is_in_use);
    if services.is_empty() {
        return Ok(());
    }
    let services: Vec<Stopped> = services.into_iter().map(|(service, _)| service).collect();
    let message = stopped(&project, &services);
    Err(refused("not_running", message, Command::new("up")))
}

/// Returns whether a service's address is known, from the project's state or
/// the configuration.
#[must_use]
pub fn has_known_address(definition: &Definition, config: &Config, state: Option<&State>) -> bool {
    let known = state.and_then(|state| state.services.get(&definition.name));
    server_origin(definition, config, known) != ServerOrigin::Default
}

/// Returns the error for a project that has never been started.
#[must_use]
pub fn never_up(site: &Site) -> Error {
    let project = site.project.as_str();
    let others = recorded_projects(&site.home);
    let similar = nearest(project, others.iter().map(Project::as_str));
    let question = similar.map(|name| format!(" (did you mean \"{name}\"?)"));
    let message = format!(
        "project {project} has never been started{}",
        question.unwrap_or_default()
    );
    refused("never_up", message, Command::new("up"))
}

/// Origin of the server that a setting points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerOrigin<'a> {
    /// Configured by the operator.
    Configured,
    /// Started by the project.
    Project(&'a ServiceState),
    /// A default address, where any server may be listening.
    Default,
}

fn server_origin<'a>(
    definition: &Definition,
    config: &Config,
    known: Option<&'a ServiceState>,
) -> ServerOrigin<'a> {
    let mut values = config.values.iter();
    let Some(value) = values.find(|value| value.key == definition.endpoint) else {
        return ServerOrigin::Default;
    };
    let is_explicit = is_explicit(&value.origin);
    match known {
        Some(known) if known.runtime == Runtime::External => ServerOrigin::Configured,
        // The variables that `fanout env` prints also point to the project's
        // own server.
        Some(known) if !is_explicit || points_to(value.reveal().as_str(), known) => {
            ServerOrigin::Project(known)
        }
        _ if is_explicit => ServerOrigin::Configured,
        _ => ServerOrigin::Default,
    }
}

/// Returns whether a URL is the address of the project's own server.
fn points_to(url: Option<&str>, known: &ServiceState) -> bool {
    let address = url.and_then(endpoint::host_and_port);
    address.is_some_and(|(host, port)| {
        endpoint::is_loopback(&host) && known.ports.get(MAIN_PORT) == Some(&port)
    })
}

/// Returns the project's services that are not running.
async fn stopped_services(
    site: &Site,
    state: Option<&State>,
    started: &[(&str, &ServiceState, Need)],
) -> Result<Vec<(Stopped, Need)>, Error> {
    let in_container = |known: &ServiceState| known.runtime == Runtime::Docker;
    let engine = if started.iter().any(|(_, known, _)| in_container(known)) {
        choice::engine_of(site, state).await?
    } else {
        None
    };
    let mut stopped = Vec::new();
    for (service, known, need) in started {
        let runs = match &engine {
            Some(engine) if in_container(known) => has_container(site, engine, service)
                .await
                .map_err(DockerError::on_query)?,
            _ => process::running(&site.dir(), service).is_some(),
        };
        if !runs {
            stopped.push((Stopped::new(site, service, known), *need));
        }
    }
    Ok(stopped)
}

impl Stopped {
    fn new(site: &Site, service: &str, known: &ServiceState) -> Self {
        let port = known.ports.get(MAIN_PORT).copied().unwrap_or_default();
        let is_in_use = ports::availability(port) == Availability::InUse;
        Self {
            service: service.to_owned(),
            port,
            is_in_use,
            holder: is_in_use.then(|| holder(&site.home, port)).flatten(),
        }
    }
}

async fn has_container(site: &Site, engine: &Engine, service: &str) -> Result<bool, DockerError> {
    let owner = ResourceLabels::new(site);
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
        failure::Failure as _,
        stack::{Home, docker::discovery::Choice},
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

    /// Records a project with one stopped service on this port.
    fn record(site: &Site, service: &str, key: &str, url: &str, port: u16) {
        let mut state = State::new(&site.project, Runtime::Native);
        let known = ServiceState {
            runtime: Runtime::Native,
            variant: None,
            ports: BTreeMap::from([("main".to_owned(), port)]),
        };
        state.services.insert(service.to_owned(), known);
        state.settings.insert(key.to_owned(), url.into());
        std::fs::create_dir_all(site.dir().path()).expect("create the project folder");
        state.save(&site.dir()).expect("save the state");
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
        load(&layers).expect("a valid configuration")
    }

    async fn refused(site: &Site, config: &Config, uses: &[(&str, Need)]) -> String {
        let error = check(site, config, uses)
            .await
            .expect_err("a refused command");
        assert_eq!(error.kind(), Kind::Refused);
        error.to_string()
    }

    #[tokio::test]
    async fn a_default_address_is_refused_and_a_configured_one_is_accepted() {
        let Fixture { site, _folder } = fixture();
        let uses = [("postgres", Need::Running), ("kafka", Need::NotForeign)];
        let nothing = config(&site, &[]);
        assert_eq!(
            refused(&site, &nothing, &uses).await,
            "project fanout has never been started"
        );
        let half = config(
            &site,
            &[("FANOUT_POSTGRES_URL", "postgres://db.example/app")],
        );
        let error = check(&site, &half, &uses)
            .await
            .expect_err("a refused command");
        assert_eq!(
            error.to_string(),
            "project fanout has no address for kafka: it has never been started, \
             and kafka.brokers is not configured"
        );
        let hint = "fanout up, or set FANOUT_KAFKA_BROKERS";
        assert_eq!(error.hint().as_deref(), Some(hint));
        let all = [
            ("FANOUT_POSTGRES_URL", "postgres://db.example/app"),
            ("FANOUT_KAFKA_BROKERS", "log.example:9092"),
        ];
        let all = config(&site, &all);
        check(&site, &all, &uses).await.expect("configured servers");
    }

    #[tokio::test]
    async fn a_stopped_service_is_refused_and_the_process_on_its_port_is_named() {
        let Fixture { site, _folder } = fixture();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("redis://127.0.0.1:{port}");
        record(&site, "redis", "redis.url", &url, port);
        let own = config(&site, &[]);
        let in_use = format!(
            "port {port} of redis is in use by pid {}",
            std::process::id()
        );
        for need in [Need::Running, Need::NotForeign] {
            let message = refused(&site, &own, &[("redis", need)]).await;
            assert!(
                message.starts_with("redis of project fanout is not running; ")
                    && message.contains(&in_use),
                "{message}"
            );
        }
        // An environment variable with the same address makes no difference.
        let named = config(&site, &[("FANOUT_REDIS_URL", &url)]);
        refused(&site, &named, &[("redis", Need::NotForeign)]).await;
        let elsewhere = config(&site, &[("FANOUT_REDIS_URL", "redis://cache.example:6379")]);
        let uses = [("redis", Need::Running)];
        check(&site, &elsewhere, &uses)
            .await
            .expect("a configured server");
        drop(listener);
        assert_eq!(
            refused(&site, &own, &uses).await,
            "redis of project fanout is not running"
        );
        let allowed = check(&site, &own, &[("redis", Need::NotForeign)]).await;
        allowed.expect("its port is free");
        let message = refused(&site, &own, &[("postgres", Need::Located)]).await;
        assert!(
            message.contains("project fanout has no address for postgres"),
            "{message}"
        );
    }

    #[test]
    fn a_misspelt_project_suggests_a_recorded_one() {
        let Fixture { mut site, _folder } = fixture();
        record(&site, "redis", "redis.url", "redis://127.0.0.1:1", 1);
        site.project = "fanuot".parse().expect("a name");
        assert_eq!(
            load_recorded_state(&site)
                .expect_err("never up")
                .to_string(),
            "project fanuot has never been started (did you mean \"fanout\"?)"
        );
    }
}
