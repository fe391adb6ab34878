//! Why a service does not serve.

use crate::{
    failure::{Failure, Kind},
    secret::SecretUrl,
    stack::{
        docker::run::ContainerError,
        native::{
            account::AccountError,
            prepare::PrepareError,
            process::{ProcessError, lines},
        },
    },
};

/// Why a service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{service} ended before it was ready ({how}){}", lines(log))]
    Died {
        service: String,
        how: String,
        log: Vec<String>,
    },
    #[error(
        "{service} was killed for want of memory{}{}",
        limit.map_or_else(String::new, |bytes| format!(": its container may have {}", mebibytes(bytes))),
        lines(log)
    )]
    Starved {
        service: String,
        container: String,
        /// Bytes that the container may have; none where it may have all.
        limit: Option<u64>,
        log: Vec<String>,
    },
    #[error("{service} was not ready within {seconds} s: {answer}{}", lines(log))]
    NotInTime {
        service: String,
        seconds: u64,
        answer: String,
        log: Vec<String>,
    },
    #[error("{service} is external, at {url}, and does not answer: {answer}")]
    ExternalDown {
        service: String,
        url: SecretUrl,
        answer: String,
    },
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Container(#[from] ContainerError),
}

impl Failure for RunnerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Died { .. } => Kind::Failed,
            Self::Starved { .. } => Kind::Environment,
            Self::NotInTime { .. } | Self::ExternalDown { .. } => Kind::NotReady,
            Self::Prepare(error) => error.kind(),
            Self::Process(error) => error.kind(),
            Self::Account(error) => error.kind(),
            Self::Container(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Died { .. } => "service_died",
            Self::Starved { .. } => "out_of_memory",
            Self::NotInTime { .. } => "service_not_ready",
            Self::ExternalDown { .. } => "external_service_down",
            Self::Prepare(error) => error.code(),
            Self::Process(error) => error.code(),
            Self::Account(error) => error.code(),
            Self::Container(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Died { service, .. } | Self::NotInTime { service, .. } => {
                Some(format!("fanout logs {service}"))
            }
            Self::Starved {
                container,
                limit: Some(_),
                ..
            } => Some(format!(
                "docker update --memory 2g --memory-swap 2g {container}, then: fanout up"
            )),
            Self::Starved { limit: None, .. } => Some(
                "docker stats, to see who has it; give the engine's machine more \
                 (Docker Desktop: Settings, Resources), then: fanout up"
                    .to_owned(),
            ),
            Self::ExternalDown { .. } => Some("fanout config show".to_owned()),
            Self::Prepare(error) => error.hint(),
            Self::Process(error) => error.hint(),
            Self::Account(error) => error.hint(),
            Self::Container(error) => error.hint(),
        }
    }
}

/// `512 MiB`.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
