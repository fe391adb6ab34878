//! Why the engine did not do something, and which refusals are answers.

use bollard::errors::Error;

use crate::failure::chain;

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("`{host}` is no address of an engine that fanout can talk to: {why}")]
    Address { host: String, why: &'static str },
    /// Certificates that do not fit, are not there, or have to be there.
    #[error("{reason}")]
    Tls { reason: String },
    #[error("the engine at {host} speaks API {found}, and fanout needs 1.41 (Docker 20.10)")]
    TooOld { host: String, found: String },
    #[error("the engine does not answer: {reason}")]
    Unreachable { reason: String },
    #[error("{message}")]
    Answer { status: u16, message: String },
    #[error("a file cannot be packed for its container")]
    Pack(#[from] std::io::Error),
}

impl DockerError {
    /// The HTTP status of an answer.
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
            // Its own words add nothing.
            Error::HyperLegacyError { err } => Self::Unreachable {
                reason: chain(&err),
            },
            other => Self::Unreachable {
                reason: chain(&other),
            },
        }
    }
}

/// `404` is an answer too.
pub(super) fn none_if_missing<T>(answer: Result<T, Error>) -> Result<Option<T>, DockerError> {
    match answer.map_err(DockerError::from) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is done already needs no doing: `304`, `404` and `409` in that sense.
pub(super) fn fine_if(done: &[u16], answer: Result<(), Error>) -> Result<(), DockerError> {
    match answer.map_err(DockerError::from) {
        Err(error) if error.status().is_some_and(|status| done.contains(&status)) => Ok(()),
        other => other,
    }
}
