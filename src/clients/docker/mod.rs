//! The container engine, by its API. What is asked of it is small: containers,
//! images, networks and volumes by name, and their labels. Which of them are a
//! project's, and what is done with them, is the stack's business.

mod address;
mod containers;
mod error;
mod images;
mod life;
mod logs;
mod things;

use std::time::Duration;

use bollard::Docker;

pub use address::Address;
pub use containers::{Container, HealthCheck, LogLimits, NewContainer};
pub use error::DockerError;
pub use images::{Credentials, PullStep};
pub use life::{Ending, Health, Life};
pub use logs::{Follow, LogLine};
pub use things::Thing;

/// The oldest API that has all that is asked: Docker 20.10's.
const LEAST_API: (u32, u32) = (1, 41);

/// How long the first question may take.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// An engine that has answered.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    pub address: Address,
    /// As it calls itself: `Docker 27.3.1`.
    pub version: String,
    /// The processors that it has: `amd64`.
    pub architecture: String,
    /// Whether it runs the health checks of containers by itself: Podman
    /// leaves that to timers that may not be there.
    pub checks_health: bool,
    api: (u32, u32),
}

impl Engine {
    /// Asks the engine at `address` for its version.
    ///
    /// # Errors
    /// When nothing answers there, or something too old.
    pub async fn connect(address: &Address) -> Result<Self, DockerError> {
        let docker = address.open()?;
        let asked = tokio::time::timeout(HELLO_PATIENCE, docker.version());
        let answer = asked.await.map_err(|_| DockerError::Unreachable {
            reason: format!("no answer within {} s", HELLO_PATIENCE.as_secs()),
        })?;
        let answer = answer.map_err(|error| address.explain(error.into()))?;
        let found = answer.api_version.unwrap_or_default();
        let api = api_version(&found).unwrap_or_default();
        if api < LEAST_API {
            return Err(DockerError::TooOld {
                host: address.host.clone(),
                found,
            });
        }
        let mut components = answer.components.into_iter().flatten();
        let is_podman = components.any(|component| component.name.starts_with("Podman"));
        let name = if is_podman { "Podman" } else { "Docker" };
        Ok(Self {
            docker,
            address: address.clone(),
            architecture: answer.arch.unwrap_or_default(),
            version: format!("{name} {}", answer.version.unwrap_or_default()),
            checks_health: !is_podman,
            api,
        })
    }
}

/// `1.41`.
fn api_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(api_version("1.9").expect("a version") < LEAST_API);
        assert!(api_version("1.41").expect("a version") >= LEAST_API);
        assert!(api_version("1.100").expect("a version") > LEAST_API);
        assert_eq!(api_version(""), None);
    }
}
