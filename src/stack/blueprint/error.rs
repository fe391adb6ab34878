//! Errors while planning an `up`.

use crate::{
    config::Runtime,
    failure::{Failure, Kind},
    stack::{
        StateError,
        definition::DefinitionError,
        docker::{
            container_spec as container, daemon::DaemonError, engine_state::EngineStateError,
        },
        native::process_spec::SpecError,
        plan::PlanError,
        resolve::ResolveError,
    },
    text::suggest::unknown,
};

/// Errors while planning an `up`.
#[derive(Debug, thiserror::Error)]
pub enum BlueprintError {
    #[error("{}", unknown("service", name, known))]
    UnknownService { name: String, known: Vec<String> },
    #[error(
        "project {project} was created with the {} runtime, which cannot be changed",
        recorded.name()
    )]
    OtherRuntime { project: String, recorded: Runtime },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Recipe(#[from] SpecError),
    #[error(transparent)]
    Container(#[from] container::SpecError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    EngineState(#[from] EngineStateError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl BlueprintError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::UnknownService { .. } | Self::OtherRuntime { .. } => return None,
            Self::State(error) => error,
            Self::Definition(error) => error,
            Self::Resolve(error) => error,
            Self::Recipe(error) => error,
            Self::Container(error) => error,
            Self::Daemon(error) => error,
            Self::EngineState(error) => error,
            Self::Plan(error) => error,
        })
    }
}

impl Failure for BlueprintError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownService { .. } => Kind::Usage,
            Self::OtherRuntime { .. } => Kind::Refused,
            _ => self.inner().map_or(Kind::Failed, Failure::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "unknown_service",
            Self::OtherRuntime { .. } => "other_runtime",
            _ => self.inner().map_or("stack", Failure::code),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherRuntime { project, .. } => Some(format!("fanout --project {project} reset")),
            Self::UnknownService { .. } => Some("fanout config show".to_owned()),
            _ => self.inner().and_then(Failure::hint),
        }
    }
}
