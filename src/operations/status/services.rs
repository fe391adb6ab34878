//! The servers themselves: their processes and whether they answer.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    config::{Config, Runtime},
    secret::masked_url,
    stack::{
        Site, State,
        blueprint::{self, BlueprintError},
        definition::Definition,
        native::process,
        probe::probe,
    },
};

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub runtime: Runtime,
    pub state: ServiceState,
    /// Milliseconds since the epoch at which its process started.
    pub since_ms: Option<i64>,
    /// Without its password.
    pub url: String,
    pub pid: Option<i32>,
    /// None for what is no container.
    pub container: Option<String>,
    /// What it answered instead of what it should.
    pub problem: Option<String>,
}

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It answers as it should.
    Ready,
    /// It runs and does not answer as it should.
    Unready,
    /// Its process ended and nobody had asked it to.
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
            Self::Died => "died",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
        }
    }
}

/// All services, each after all that it needs.
pub(super) async fn all(
    site: &Site,
    config: &Config,
    state: Option<&State>,
) -> Result<Vec<ServiceStatus>, BlueprintError> {
    let definitions = blueprint::definitions()?;
    let endpoints: BTreeMap<&str, &str> = config
        .values
        .iter()
        .filter_map(|value| Some((value.key.as_str(), value.value.as_str()?)))
        .collect();
    let looks = definitions.iter().map(|definition| {
        let endpoint = endpoints.get(definition.endpoint.as_str()).copied();
        one(
            site,
            config,
            state,
            definition,
            endpoint.unwrap_or_default(),
        )
    });
    Ok(join_all(looks).await)
}

async fn one(
    site: &Site,
    config: &Config,
    state: Option<&State>,
    definition: &Definition,
    endpoint: &str,
) -> ServiceStatus {
    let name = &definition.name;
    let dir = site.dir();
    let recorded = state.and_then(|state| state.services.get(name));
    let configured = config
        .settings
        .services
        .get(name)
        .and_then(|wishes| wishes.runtime);
    let runtime = configured
        .or(recorded.map(|known| known.runtime))
        .or(state.map(|state| state.runtime))
        .unwrap_or(Runtime::Native);
    let record = process::running(&dir, name);
    let external = runtime == Runtime::External;
    let answer = if external || record.is_some() {
        probe(&definition.ready, endpoint).await
    } else {
        Ok(())
    };
    let how = match (&record, &answer) {
        (_, Ok(())) if external => ServiceState::Ready,
        (_, Err(_)) if external => ServiceState::Unreachable,
        (Some(_), Ok(())) => ServiceState::Ready,
        (Some(_), Err(_)) => ServiceState::Unready,
        // `down` takes the record away.
        (None, _) if dir.record(name).exists() => ServiceState::Died,
        (None, _) if recorded.is_some() => ServiceState::Stopped,
        (None, _) => ServiceState::Absent,
    };
    ServiceStatus {
        name: name.clone(),
        runtime,
        state: how,
        since_ms: record.as_ref().map(|record| record.started_ms),
        url: masked_url(endpoint),
        pid: record.map(|record| record.process.pid),
        container: None,
        problem: answer.err(),
    }
}
