//! Whether a project runs in containers: as it did before, as it is asked, or
//! because an engine answers.

use super::{
    Site, State,
    blueprint::error::BlueprintError,
    docker::{
        daemon::{self, DaemonError},
        surroundings::Surroundings,
    },
};
use crate::{clients::docker::Engine, config::Runtime};

/// How a project is run, and why.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub runtime: Runtime,
    /// Where it was looked for.
    pub engine: Option<Engine>,
    /// For a new project of which nobody has said how it is run.
    pub because: Option<String>,
}

/// Decides how the project is run.
///
/// # Errors
/// When it is run in another way than it is asked, or nobody asked and an
/// engine is there that does not answer.
pub async fn choose(
    site: &Site,
    recorded: Option<&State>,
    asked: Option<Runtime>,
) -> Result<Chosen, BlueprintError> {
    let known = |runtime| Chosen {
        runtime,
        engine: None,
        because: None,
    };
    match (recorded.map(|state| state.runtime), asked) {
        (Some(recorded), Some(asked)) if recorded != asked => Err(BlueprintError::OtherRuntime {
            project: site.project.to_string(),
            recorded,
        }),
        (Some(runtime), _) | (None, Some(runtime)) => Ok(known(runtime)),
        (None, None) => match engine(site, None).await {
            Ok(engine) => Ok(Chosen {
                runtime: Runtime::Docker,
                because: Some(format!(
                    "runtime docker: {} answers at {}",
                    engine.version, engine.address.host
                )),
                engine: Some(engine),
            }),
            Err(DaemonError::NotThere(_)) => Ok(Chosen {
                because: Some("runtime native: there is no container engine here".to_owned()),
                ..known(Runtime::Native)
            }),
            Err(error) => Err(error.into()),
        },
    }
}

/// The engine that the operator names, the project was brought up with, or
/// that is there.
///
/// # Errors
/// When none answers.
pub async fn engine(site: &Site, recorded: Option<&State>) -> Result<Engine, DaemonError> {
    let recorded = recorded.and_then(State::engine);
    daemon::find(&Surroundings::from_env(), &site.docker, recorded).await
}

/// The engine of a project that has containers; none for one that has not.
///
/// # Errors
/// When it has, and none answers.
pub async fn engine_of(
    site: &Site,
    recorded: Option<&State>,
) -> Result<Option<Engine>, DaemonError> {
    match recorded {
        Some(state) if state.has_containers() => engine(site, recorded).await.map(Some),
        _ => Ok(None),
    }
}
