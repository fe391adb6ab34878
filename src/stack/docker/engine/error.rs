//! Errors of the container engine, and the responses that do not count as
//! errors.

use bollard::errors::Error;

use crate::failure::{self, Kind, chain};

/// Error of a request to the engine.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("`{host}` is not a supported engine address: {reason}")]
    Address { host: String, reason: &'static str },
    /// Certificates that are invalid, unreadable or missing.
    #[error("{reason}")]
    Tls { reason: String },
    #[error("the engine at {host} has API version {found}, but fanout needs 1.41 (Docker 20.10)")]
    TooOld { host: String, found: String },
    #[error("the container engine is unreachable: {reason}")]
    Unreachable { reason: String },
    #[error("{message}")]
    Answer { status: u16, message: String },
    #[error("cannot pack the files for the container")]
    Pack(#[from] std::io::Error),
}

impl DockerError {
    /// Returns the error for the user, with this message about what failed.
    #[must_use]
    pub fn during(self, message: impl Into<String>) -> failure::Error {
        failure::Error::new(Kind::Environment, "docker_failed", message)
            .with_hint("docker info")
            .caused_by(self)
    }

    /// Returns the error for the user, if the engine could not be inspected.
    #[must_use]
    pub fn on_query(self) -> failure::Error {
        self.during("cannot query the container engine")
    }

    /// Returns the HTTP status of an error response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<Error> for DockerError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Answer {
                status: status_code,
                message,
            },
            Error::DockerStreamError { error } => Self::Answer {
                status: 0,
                message: error,
            },
            // Only the source of this error is informative.
            Error::HyperLegacyError { err } => Self::Unreachable {
                reason: chain(&err),
            },
            other => Self::Unreachable {
                reason: chain(&other),
            },
        }
    }
}

/// Maps the status `404` to `None`.
pub(super) fn none_if_missing<T>(result: Result<T, Error>) -> Result<Option<T>, DockerError> {
    match result.map_err(DockerError::from) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Accepts these statuses as success, because they mean that the request was
/// already fulfilled.
pub(super) fn ok_if(accepted: &[u16], result: Result<(), Error>) -> Result<(), DockerError> {
    match result.map_err(DockerError::from) {
        Err(error)
            if error
                .status()
                .is_some_and(|status| accepted.contains(&status)) =>
        {
            Ok(())
        }
        other => other,
    }
}
