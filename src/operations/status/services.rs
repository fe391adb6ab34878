//! The servers themselves: their processes or containers, and whether they
//! answer.

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

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub runtime: Runtime,
    pub state: ServiceState,
    /// Milliseconds since the epoch at which its process or container started.
    pub since_ms: Option<i64>,
    /// Without its password.
    pub url: SecretUrl,
    pub pid: Option<i32>,
    /// None for what is no container.
    pub container: Option<String>,
    /// What it answered instead of what it should, or how it ended.
    pub problem: Option<String>,
    /// The setting that says where it is.
    #[serde(skip)]
    pub endpoint: String,
    /// A store that no configured sink writes to.
    #[serde(skip)]
    pub is_idle: bool,
}

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It answers as it should.
    Ready,
    /// It runs and does not answer as it should.
    Unready,
    /// It answers, and refuses the credentials of its endpoint.
    Denied,
    /// It ended and nobody had asked it to.
    Died,
    /// It was stopped; what it stored is there.
    Stopped,
    /// It was never brought up.
    Absent,
    /// It is external and does not answer.
    Unreachable,
}

impl ServiceState {
    /// As it is written.
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

/// All services, each after all that it needs. A store that no configured sink
/// writes to is only among them where the project has it.
pub(super) async fn all(
    site: &Site,
    config: &Config,
    state: Option<&State>,
) -> Result<Vec<ServiceStatus>, Error> {
    let engine = choice::engine_of(site, state).await;
    let place = Place {
        site,
        config,
        state,
        engine: engine.map_err(|error| error.to_string()),
    };
    let runtime = state.map_or(Runtime::Native, |state| state.runtime);
    let all = selection::definitions()?;
    let definitions = selection::of_runtime(&all, &config.settings, runtime);
    let is_shown = |one: &&Definition| {
        let is_recorded = state.is_some_and(|state| state.services.contains_key(&one.name));
        is_recorded || !place.is_idle(one)
    };
    let shown = definitions.iter().filter(is_shown);
    let looks = shown.map(|definition| place.one(definition));
    Ok(join_all(looks).await)
}

/// Where services are looked for.
struct Place<'a> {
    site: &'a Site,
    config: &'a Config,
    state: Option<&'a State>,
    /// None where there are no containers, or why nobody knows.
    engine: Result<Option<Engine>, String>,
}

/// What a service runs as, where it does.
#[derive(Default)]
struct Found {
    /// Something of it is there, running or not.
    exists: bool,
    running: bool,
    since_ms: Option<i64>,
    pid: Option<i32>,
    container: Option<String>,
    problem: Option<String>,
    /// How it ended, where nobody had asked it to.
    ended: Option<String>,
}

impl Place<'_> {
    fn is_idle(&self, definition: &Definition) -> bool {
        is_idle_store(&definition.name, &self.config.settings.pipeline.sinks)
    }

    async fn one(&self, definition: &Definition) -> ServiceStatus {
        let name = &definition.name;
        let recorded = self.state.and_then(|state| state.services.get(name));
        let runtime = self.runtime(definition);
        let endpoint = self.endpoint(definition);
        let found = match runtime {
            Runtime::External => Found::default(),
            Runtime::Docker => self.container(name).await,
            Runtime::Native => self.process(name),
        };
        let external = runtime == Runtime::External;
        let answer = match &found.problem {
            Some(problem) => Err(ProbeError {
                text: problem.clone(),
                is_denied: false,
            }),
            None if external || found.running => probe(&definition.ready, &endpoint).await,
            None => Ok(()),
        };
        let state = match (&answer, found.running) {
            (Err(said), _) if said.is_denied => ServiceState::Denied,
            (Ok(()), _) if external => ServiceState::Ready,
            (Err(_), _) if external => ServiceState::Unreachable,
            (Ok(()), true) => ServiceState::Ready,
            (Err(_), true) => ServiceState::Unready,
            (Err(_), false) if found.problem.is_some() => ServiceState::Unready,
            // `down` takes it away.
            (_, false) if found.exists => ServiceState::Died,
            (_, false) if recorded.is_some() => ServiceState::Stopped,
            (_, false) => ServiceState::Absent,
        };
        ServiceStatus {
            name: name.clone(),
            runtime,
            state,
            since_ms: found.since_ms,
            url: endpoint,
            pid: found.pid,
            container: found.container,
            problem: answer.err().map(|said| said.text).or(found.ended),
            endpoint: definition.endpoint.clone(),
            is_idle: self.is_idle(definition),
        }
    }

    fn runtime(&self, definition: &Definition) -> Runtime {
        let name = &definition.name;
        let wishes = self.config.settings.services.get(name);
        let configured = wishes.and_then(|wishes| wishes.runtime);
        let recorded = self.state.and_then(|state| state.services.get(name));
        let project = self.state.map_or(Runtime::Native, |state| state.runtime);
        // One that the project does not have and the operator has named.
        let named =
            || has_known_address(definition, self.config, self.state).then_some(Runtime::External);
        configured
            .or(recorded.map(|known| known.runtime))
            .or_else(named)
            .or(definition.runtime(None, project))
            .unwrap_or(project)
    }

    fn endpoint(&self, definition: &Definition) -> SecretUrl {
        let mut values = self.config.values.iter();
        let found = values.find(|value| value.key == definition.endpoint);
        found
            .and_then(|value| value.reveal().as_str())
            .unwrap_or_default()
            .into()
    }

    fn process(&self, name: &str) -> Found {
        let dir = self.site.dir();
        let record = process::running(&dir, name);
        let exists = dir.record(name).exists();
        let ended = exists && record.is_none();
        Found {
            exists,
            running: record.is_some(),
            ended: ended.then(|| "its process has ended".to_owned()),
            since_ms: record.as_ref().map(|record| record.started_ms),
            pid: record.map(|record| record.process.pid),
            ..Found::default()
        }
    }

    async fn container(&self, service: &str) -> Found {
        let engine = match &self.engine {
            Ok(Some(engine)) => engine,
            Ok(None) => return Found::default(),
            Err(problem) => {
                return Found {
                    problem: Some(problem.clone()),
                    ..Found::default()
                };
            }
        };
        let owner = ResourceLabels::new(self.site);
        match engine.container(&owner.container(service)).await {
            Ok(Some(found))
                if owner
                    .check("container", &found.name, &found.labels)
                    .is_err() =>
            {
                Found::default()
            }
            Ok(Some(found)) => Found {
                exists: true,
                running: found.is_running(),
                since_ms: found.started_ms.filter(|_| found.is_running()),
                problem: unwell(&found),
                ended: ended(&found.run_state),
                container: Some(found.name),
                ..Found::default()
            },
            Ok(None) => Found::default(),
            Err(error) => Found {
                problem: Some(error.to_string()),
                ..Found::default()
            },
        }
    }
}

fn ended(run_state: &RunState) -> Option<String> {
    match run_state {
        RunState::Running => None,
        RunState::Created => Some("its container was never started".to_owned()),
        RunState::Exited(how) => Some(format!("its container has ended ({how})")),
    }
}

/// What the engine has against a container that runs.
fn unwell(found: &Container) -> Option<String> {
    match &found.health {
        Health::Unhealthy(said) if found.is_running() => Some(
            format!("its health check fails: {said}")
                .trim_end_matches(": ")
                .to_owned(),
        ),
        _ => None,
    }
}
