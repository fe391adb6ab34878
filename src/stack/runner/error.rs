//! Errors while starting a service or waiting for it.

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

/// Errors while starting a service or waiting for it.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{service} exited before it was ready ({how}){}", lines(log))]
    Died {
        service: String,
        how: String,
        log: Vec<String>,
    },
    #[error(
        "{service} ran out of memory and was killed{}{}",
        limit.map_or_else(String::new, describe_limit),
        lines(log)
    )]
    OutOfMemory {
        service: String,
        container: String,
        /// Memory limit of the container in bytes; `None` if it has none.
        limit: Option<u64>,
        log: Vec<String>,
    },
    #[error("{service} was not ready within {seconds} s: {problem}{}", lines(log))]
    Timeout {
        service: String,
        seconds: u64,
        problem: String,
        log: Vec<String>,
    },
    #[error("{service}, an external service at {url}, is not ready: {problem}")]
    ExternalDown {
        service: String,
        url: SecretUrl,
        problem: String,
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
            Self::OutOfMemory { .. } => Kind::Environment,
            Self::Timeout { .. } | Self::ExternalDown { .. } => Kind::NotReady,
            Self::Prepare(error) => error.kind(),
            Self::Process(error) => error.kind(),
            Self::Account(error) => error.kind(),
            Self::Container(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Died { .. } => "service_died",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Timeout { .. } => "service_not_ready",
            Self::ExternalDown { .. } => "external_service_down",
            Self::Prepare(error) => error.code(),
            Self::Process(error) => error.code(),
            Self::Account(error) => error.code(),
            Self::Container(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Died { service, .. } | Self::Timeout { service, .. } => {
                Some(format!("fanout logs {service}"))
            }
            Self::OutOfMemory {
                container,
                limit: Some(_),
                ..
            } => Some(format!(
                "docker update --memory 2g --memory-swap 2g {container}, then: fanout up"
            )),
            Self::OutOfMemory { limit: None, .. } => Some(
                "find what uses it with docker stats; give the engine's machine more \
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

/// Describes a container's memory limit: ` (its container is limited to 512 MiB)`.
fn describe_limit(bytes: u64) -> String {
    format!(" (its container is limited to {} MiB)", bytes >> 20)
}
