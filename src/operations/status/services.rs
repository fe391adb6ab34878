//! Status of the servers: their processes or containers, and their responses.

use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    config::{Config, Runtime},
    failure::Error,
    secret::SecretUrl,
    sink_kind::is_idle_store,
    stack::{
        Site, State, choice,
        definition::Definition,
        docker::{
            engine::{Container, Engine, Health, RunState},
            labels::ResourceLabels,
        },
        native::process,
        probe::{ProbeError, probe},
        reach::has_known_address,
        selection,
    },
};

/// Status of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub runtime: Runtime,
    pub state: ServiceState,
    /// Start time of its process or container, in milliseconds since the epoch.
    pub since_ms: Option<i64>,
    /// URL of the server. The password is hidden.
    pub url: SecretUrl,
    pub pid: Option<i32>,
    /// Name of its container. `None` if it does not run in one.
    pub container: Option<String>,
    /// The unexpected response, or the way in which it exited.
    pub problem: Option<String>,
    /// Setting with the address of the server.
    #[serde(skip)]
    pub endpoint: String,
    /// Whether it is a store that no configured sink writes to.
    #[serde(skip)]
    pub is_idle: bool,
}

/// State of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Responds as expected.
    Ready,
    /// Runs, but does not respond as expected.
    Unready,
    /// Responds, but refuses the credentials of its endpoint.
    Denied,
    /// Exited without having been stopped.
    Died,
    /// Stopped; its data still exists.
    Stopped,
    /// Never started.
    Absent,
    /// External and not responding.
    Unreachable,
}

impl ServiceState {
    /// Returns the name of the state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Denied => "denied",
            Self::Died => "died",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Returns the status of all services, each after its dependencies. A store that no
/// configured sink writes to is only included if it is recorded in the project.
pub(super) async fn all(
    site: &Site,
    config: &Config,
    state: Option<&State>,
) -> Result<Vec<ServiceStatus>, Error> {
    let engine = choice::engine_of(site, state).await;
    let inspector = Inspector {
        site,
        config,
        state,
        engine: engine.map_err(|error| error.to_string()),
    };
    let runtime = state.map_or(Runtime::Native, |state| state.runtime);
    let all = selection::definitions()?;
    let definitions = selection::of_runtime(&all, &config.settings, runtime);
    let is_shown = |definition: &&Definition| {
        let is_recorded = state.is_some_and(|state| state.services.contains_key(&definition.name));
        is_recorded || !inspector.is_idle(definition)
    };
    let shown = definitions.iter().filter(is_shown);
    let statuses = shown.map(|definition| inspector.status(definition));
    Ok(join_all(statuses).await)
}

/// Inspects the services of a project.
struct Inspector<'a> {
    site: &'a Site,
    config: &'a Config,
    state: Option<&'a State>,
    /// `None` if the project has no containers. An error if the engine is unreachable.
    engine: Result<Option<Engine>, String>,
}

/// Process or container of a service.
#[derive(Default)]
struct Instance {
    /// Whether it exists, running or not.
    exists: bool,
    is_running: bool,
    since_ms: Option<i64>,
    pid: Option<i32>,
    container: Option<String>,
    problem: Option<String>,
    /// How it exited, if it was not stopped.
    exit: Option<String>,
}

impl Inspector<'_> {
    fn is_idle(&self, definition: &Definition) -> bool {
        is_idle_store(&definition.name, &self.config.settings.pipeline.sinks)
    }

    async fn status(&self, definition: &Definition) -> ServiceStatus {
        let name = &definition.name;
        let recorded = self.state.and_then(|state| state.services.get(name));
        let runtime = self.runtime(definition);
        let endpoint = self.endpoint(definition);
        let instance = match runtime {
            Runtime::External => Instance::default(),
            Runtime::Docker => self.container(name).await,
            Runtime::Native => self.process(name),
        };
        let is_external = runtime == Runtime::External;
        let response = match &instance.problem {
            Some(problem) => Err(ProbeError {
                text: problem.clone(),
                is_denied: false,
            }),
            None if is_external || instance.is_running => probe(&definition.ready, &endpoint).await,
            None => Ok(()),
        };
        let state = match (&response, instance.is_running) {
            (Err(error), _) if error.is_denied => ServiceState::Denied,
            (Ok(()), _) if is_external => ServiceState::Ready,
            (Err(_), _) if is_external => ServiceState::Unreachable,
            (Ok(()), true) => ServiceState::Ready,
            (Err(_), true) => ServiceState::Unready,
            (Err(_), false) if instance.problem.is_some() => ServiceState::Unready,
            // `down` removes the process or container.
            (_, false) if instance.exists => ServiceState::Died,
            (_, false) if recorded.is_some() => ServiceState::Stopped,
            (_, false) => ServiceState::Absent,
        };
        ServiceStatus {
            name: name.clone(),
            runtime,
            state,
            since_ms: instance.since_ms,
            url: endpoint,
            pid: instance.pid,
            container: instance.container,
            problem: response.err().map(|error| error.text).or(instance.exit),
            endpoint: definition.endpoint.clone(),
            is_idle: self.is_idle(definition),
        }
    }

    /// Returns the runtime of a service.
    fn runtime(&self, definition: &Definition) -> Runtime {
        let name = &definition.name;
        let settings = self.config.settings.services.get(name);
        let configured = settings.and_then(|settings| settings.runtime);
        let recorded = self.state.and_then(|state| state.services.get(name));
        let project = self.state.map_or(Runtime::Native, |state| state.runtime);
        // A service that is not in the project, but whose address is configured.
        let external =
            || has_known_address(definition, self.config, self.state).then_some(Runtime::External);
        configured
            .or(recorded.map(|known| known.runtime))
            .or_else(external)
            .or(definition.runtime(None, project))
            .unwrap_or(project)
    }

    /// Returns the configured URL of a service.
    fn endpoint(&self, definition: &Definition) -> SecretUrl {
        let mut values = self.config.values.iter();
        let value = values.find(|value| value.key == definition.endpoint);
        value
            .and_then(|value| value.reveal().as_str())
            .unwrap_or_default()
            .into()
    }

    fn process(&self, name: &str) -> Instance {
        let dir = self.site.dir();
        let record = process::running(&dir, name);
        let exists = dir.record(name).exists();
        let has_exited = exists && record.is_none();
        Instance {
            exists,
            is_running: record.is_some(),
            exit: has_exited.then(|| "its process has exited".to_owned()),
            since_ms: record.as_ref().map(|record| record.started_ms),
            pid: record.map(|record| record.process.pid),
            ..Instance::default()
        }
    }

    async fn container(&self, service: &str) -> Instance {
        let engine = match &self.engine {
            Ok(Some(engine)) => engine,
            Ok(None) => return Instance::default(),
            Err(problem) => {
                return Instance {
                    problem: Some(problem.clone()),
                    ..Instance::default()
                };
            }
        };
        let labels = ResourceLabels::new(self.site);
        match engine.container(&labels.container(service)).await {
            Ok(Some(container))
                if labels
                    .check("container", &container.name, &container.labels)
                    .is_err() =>
            {
                Instance::default()
            }
            Ok(Some(container)) => Instance {
                exists: true,
                is_running: container.is_running(),
                since_ms: container.started_ms.filter(|_| container.is_running()),
                problem: health_problem(&container),
                exit: exit(&container.run_state),
                container: Some(container.name),
                ..Instance::default()
            },
            Ok(None) => Instance::default(),
            Err(error) => Instance {
                problem: Some(error.to_string()),
                ..Instance::default()
            },
        }
    }
}

/// Describes how a container exited. `None` if it is running.
fn exit(run_state: &RunState) -> Option<String> {
    match run_state {
        RunState::Running => None,
        RunState::Created => Some("its container was never started".to_owned()),
        RunState::Exited(status) => Some(format!("its container has exited ({status})")),
    }
}

/// Describes the failing health check of a running container.
fn health_problem(container: &Container) -> Option<String> {
    match &container.health {
        Health::Unhealthy(output) if container.is_running() => Some(
            format!("its health check fails: {output}")
                .trim_end_matches(": ")
                .to_owned(),
        ),
        _ => None,
    }
}
