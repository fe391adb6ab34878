//! Chooses whether a project runs in containers: as recorded, as requested, or
//! because a container engine responds.

use super::{
    Site, State,
    docker::{
        daemon::{self, DaemonError},
        discovery::EngineDiscovery,
        engine::Engine,
    },
};
use crate::{
    config::Runtime,
    failure::{Command, Error, Kind},
};

/// Runtime of a project, and the reason for it.
#[derive(Debug, Clone)]
pub struct RuntimeChoice {
    pub runtime: Runtime,
    /// The engine, if one was searched for.
    pub engine: Option<Engine>,
    /// Reason for the choice, if nothing was recorded or requested.
    pub reason: Option<String>,
}

/// Decides how the project is run.
///
/// # Errors
/// If the requested runtime differs from the recorded one, or if none was
/// requested and an engine is present but does not respond.
pub async fn choose(
    site: &Site,
    recorded: Option<&State>,
    requested: Option<Runtime>,
) -> Result<RuntimeChoice, Error> {
    let known = |runtime| RuntimeChoice {
        runtime,
        engine: None,
        reason: None,
    };
    match (recorded.map(|state| state.runtime), requested) {
        (Some(recorded), Some(requested)) if recorded != requested => {
            let message = format!(
                "project {} was created with the {} runtime, which cannot be changed",
                site.project,
                recorded.name()
            );
            let reset = Command::new("reset").global_flag("--project", site.project.as_str());
            Err(Error::new(Kind::Refused, "other_runtime", message).with_hint(reset))
        }
        (Some(runtime), _) | (None, Some(runtime)) => Ok(known(runtime)),
        (None, None) => match engine(site, None).await {
            Ok(engine) => Ok(RuntimeChoice {
                runtime: Runtime::Docker,
                reason: Some(format!(
                    "runtime docker: {} responds at {}",
                    engine.version, engine.address.host
                )),
                engine: Some(engine),
            }),
            Err(DaemonError::NotThere(_)) => Ok(RuntimeChoice {
                reason: Some("runtime native: no container engine found".to_owned()),
                ..known(Runtime::Native)
            }),
            Err(error) => Err(error.into()),
        },
    }
}

/// Returns the configured engine, otherwise the recorded one, otherwise one
/// found at a default address.
///
/// # Errors
/// If no engine responds.
pub async fn engine(site: &Site, recorded: Option<&State>) -> Result<Engine, DaemonError> {
    let recorded = recorded.and_then(State::engine);
    daemon::find(&EngineDiscovery::from_env(), &site.docker, recorded).await
}

/// Returns the engine of a project with containers, and `None` for a project
/// without.
///
/// # Errors
/// If the project has containers and no engine responds.
pub async fn engine_of(
    site: &Site,
    recorded: Option<&State>,
) -> Result<Option<Engine>, DaemonError> {
    match recorded {
        Some(state) if state.has_containers() => engine(site, recorded).await.map(Some),
        _ => Ok(None),
    }
}
