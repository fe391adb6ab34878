//! Why a stack is not up.

use crate::{
    failure::{Error, Failure, Kind},
    kafka::KafkaError,
    runtime::status::Halt,
    sinks::clickhouse::owned::ObjectsError,
    source::{ProvisionError, RecordsError, connector::ConnectorError, role::RoleError},
    stack::{StateError, owned::OwnedError},
};

/// Why the stack is not up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Stack(#[from] Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Owned(#[from] OwnedError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error(transparent)]
    Source(#[from] ProvisionError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("a reset of project {project} has begun and is not done")]
    ResetUnfinished { project: String },
    #[error(
        "confirmation required to change what is not fanout's own, or to replace what was \
         dropped\n{needed}"
    )]
    NotConfirmed {
        needed: String,
        /// The command that was typed.
        typed: String,
    },
    #[error("sink {sink} halted: {}", halt.reason)]
    Halted { sink: String, halt: Halt },
    #[error("the pipeline was not past its start within {seconds} s: {what}")]
    SinkNotReady { what: String, seconds: u64 },
}

impl From<KafkaError> for UpError {
    fn from(error: KafkaError) -> Self {
        Self::Records(error.into())
    }
}

impl UpError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::Halted { .. }
            | Self::SinkNotReady { .. }
            | Self::ResetUnfinished { .. }
            | Self::NotConfirmed { .. } => return None,
            Self::Stack(error) => error,
            Self::State(error) => error,
            Self::Owned(error) => error,
            Self::Objects(error) => error,
            Self::Role(error) => error,
            Self::Connector(error) => error,
            Self::Source(error) => error,
            Self::Records(error) => error,
        })
    }
}

impl Failure for UpError {
    fn kind(&self) -> Kind {
        match self {
            Self::SinkNotReady { .. } => Kind::NotReady,
            Self::ResetUnfinished { .. } | Self::NotConfirmed { .. } => Kind::Refused,
            _ => self.inner().map_or(Kind::Failed, Failure::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::SinkNotReady { .. } => "sink_not_ready",
            Self::ResetUnfinished { .. } => "reset_unfinished",
            Self::NotConfirmed { .. } => "not_confirmed",
            _ => self.inner().map_or("sink_halted", Failure::code),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::ResetUnfinished { .. } => Some("fanout reset".to_owned()),
            Self::Halted { halt, .. } => Some(halt.remedy.clone()),
            Self::SinkNotReady { .. } => Some("fanout logs pipeline".to_owned()),
            Self::NotConfirmed { typed, .. } => Some(format!("{typed} --yes")),
            _ => self.inner().and_then(Failure::hint),
        }
    }
}
