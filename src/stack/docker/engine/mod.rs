//! Client of the container engine's API. It covers containers, images, networks
//! and volumes by name, and their labels. Which of them belong to a project,
//! and how they are used, is left to the stack.

mod address;
mod containers;
mod error;
mod images;
mod logs;
mod resources;
mod run_state;

use std::time::Duration;

use bollard::Docker;

pub use address::Address;
pub use containers::{Container, HealthCheck, LogLimits, NewContainer};
pub use error::DockerError;
pub use images::{Credentials, PullStep};
pub use logs::{LogLine, LogStream};
pub use resources::Resource;
pub use run_state::{ExitReason, Health, RunState};

/// Minimum API version: that of Docker 20.10.
const MIN_API: (u32, u32) = (1, 41);

/// Timeout of the first request.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connected engine.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    pub address: Address,
    /// Name and version: `Docker 27.3.1`.
    pub version: String,
    /// Processor architecture: `amd64`.
    pub architecture: String,
    /// Whether the engine itself runs the health checks of containers. Podman
    /// relies on timers that may not exist.
    pub checks_health: bool,
    api: (u32, u32),
}

impl Engine {
    /// Connects to the engine at `address` and reads its version.
    ///
    /// # Errors
    /// If no engine responds, or its API is too old.
    pub async fn connect(address: &Address) -> Result<Self, DockerError> {
        let docker = address.open()?;
        let request = tokio::time::timeout(HELLO_TIMEOUT, docker.version());
        let response = request.await.map_err(|_| DockerError::Unreachable {
            reason: format!("no response within {} s", HELLO_TIMEOUT.as_secs()),
        })?;
        let response = response.map_err(|error| address.explain(error.into()))?;
        let found = response.api_version.unwrap_or_default();
        let api = api_version(&found).unwrap_or_default();
        if api < MIN_API {
            return Err(DockerError::TooOld {
                host: address.host.clone(),
                found,
            });
        }
        let mut components = response.components.into_iter().flatten();
        let is_podman = components.any(|component| component.name.starts_with("Podman"));
        let name = if is_podman { "Podman" } else { "Docker" };
        Ok(Self {
            docker,
            address: address.clone(),
            architecture: response.arch.unwrap_or_default(),
            version: format!("{name} {}", response.version.unwrap_or_default()),
            checks_health: !is_podman,
            api,
        })
    }
}

/// Parses an API version: `1.41`.
fn api_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(api_version("1.9").expect("a version") < MIN_API);
        assert!(api_version("1.41").expect("a version") >= MIN_API);
        assert!(api_version("1.100").expect("a version") > MIN_API);
        assert_eq!(api_version(""), None);
    }
}
