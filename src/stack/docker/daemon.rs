//! Finds the container engine in the way of the docker command: the configured
//! one, otherwise the first default socket that responds. An error lists all
//! attempts.

use super::{
    discovery::{Candidate, Choice, EngineDiscovery},
    engine::{Address, DockerError, Engine},
};
use crate::failure::{Command, Error, Hint, Kind};

/// Failed attempt to connect to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FailedAttempt {
    candidate: Candidate,
    reason: String,
    remedy: Remedy,
}

/// What the operator can do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Start,
    Update,
    JoinGroup,
    Certificates,
    /// Only another engine helps.
    Another,
}

impl Remedy {
    fn from_error(error: &DockerError) -> Self {
        match error {
            DockerError::Address { .. } => Self::Another,
            DockerError::TooOld { .. } => Self::Update,
            DockerError::Tls { .. } => Self::Certificates,
            other
                if other
                    .to_string()
                    .to_lowercase()
                    .contains("permission denied") =>
            {
                Self::JoinGroup
            }
            _ => Self::Start,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Start => "start it (systemctl start docker) or ",
            Self::Update => "update it or ",
            Self::JoinGroup => {
                "join the group that may use it (usermod -aG docker $USER, then log in again) or "
            }
            Self::Certificates => {
                "set the folder of its ca.pem and of your cert.pem and key.pem \
                 (export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=<folder>) or "
            }
            Self::Another => "",
        }
    }
}

/// Error while finding an engine.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nothing is configured, and no default socket exists.
    #[error(transparent)]
    NotThere(Error),
    #[error(transparent)]
    Other(#[from] Error),
}

impl DaemonError {
    fn not_there(attempts: &[FailedAttempt]) -> Self {
        let message = format!("no container engine found: {}", listing(attempts));
        let error = Error::new(Kind::Environment, "docker_not_there", message);
        Self::NotThere(error.with_hint(remedy(attempts)))
    }

    fn refused(attempts: &[FailedAttempt]) -> Self {
        let message = format!("no container engine responds: {}", listing(attempts));
        let error = Error::new(Kind::Environment, "docker_refused", message);
        Self::Other(error.with_hint(remedy(attempts)))
    }
}

impl From<DaemonError> for Error {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::NotThere(error) | DaemonError::Other(error) => error,
        }
    }
}

fn remedy(attempts: &[FailedAttempt]) -> Hint {
    // A remedy other than starting the engine comes first.
    let mut remedies = attempts.iter().map(|attempt| attempt.remedy);
    let remedy = remedies.find(|remedy| *remedy != Remedy::Start);
    let remedy = remedy.unwrap_or(Remedy::Start).hint();
    Hint::from(remedy)
        .text("use another (--docker-host unix:///…), or run a new project without: ")
        .command(Command::new("up").global_flag("--runtime", "native"))
}

fn listing(attempts: &[FailedAttempt]) -> String {
    let describe = |attempt: &FailedAttempt| format!("{}: {}", attempt.candidate, attempt.reason);
    let all: Vec<String> = attempts.iter().map(describe).collect();
    all.join("; ")
}

/// Finds the engine: the configured one, otherwise the first default socket
/// that responds.
///
/// # Errors
/// [`DaemonError::NotThere`] if nothing is configured and no socket exists, and
/// [`DaemonError::Other`] if an engine does not respond.
pub async fn find(
    discovery: &EngineDiscovery,
    choice: &Choice,
    recorded: Option<Address>,
) -> Result<Engine, DaemonError> {
    if let Some(candidate) = discovery.configured(choice, recorded)? {
        return match Engine::connect(&candidate.address).await {
            Ok(engine) => Ok(engine),
            Err(error) => Err(DaemonError::refused(&[attempt(candidate, &error)])),
        };
    }
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for socket in &discovery.sockets {
        let candidate = Candidate {
            address: Address {
                host: format!("unix://{}", socket.display()),
                certificates: None,
            },
            origin: "default socket".to_owned(),
        };
        if !socket.exists() {
            missing.push(FailedAttempt {
                candidate,
                reason: "not found".to_owned(),
                remedy: Remedy::Start,
            });
            continue;
        }
        match Engine::connect(&candidate.address).await {
            Ok(engine) => return Ok(engine),
            Err(error) => refused.push(attempt(candidate, &error)),
        }
    }
    Err(if refused.is_empty() {
        DaemonError::not_there(&missing)
    } else {
        DaemonError::refused(&refused)
    })
}

fn attempt(candidate: Candidate, error: &DockerError) -> FailedAttempt {
    FailedAttempt {
        candidate,
        remedy: Remedy::from_error(error),
        reason: match error {
            DockerError::Unreachable { reason } => reason.clone(),
            DockerError::Address { reason, .. } => (*reason).to_owned(),
            DockerError::TooOld { found, .. } => {
                format!("its API version is {found}, but fanout needs 1.41 (Docker 20.10)")
            }
            other => other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure as _;

    #[tokio::test]
    async fn the_hint_names_the_remedy_for_the_error() {
        let choice = Choice {
            host: Some("ssh://me@there".to_owned()),
            context: None,
        };
        let error = find(&EngineDiscovery::default(), &choice, None)
            .await
            .map_err(Error::from)
            .expect_err("no such way");
        assert_eq!(
            error.to_string(),
            "no container engine responds: ssh://me@there (--docker-host): \
             its containers would publish their ports on that machine; run fanout there"
        );
        let hint = error.hint().expect("a hint");
        assert!(hint.starts_with("use another (--docker-host"), "{hint}");
        for (error, start) in [
            (
                DockerError::TooOld {
                    host: String::new(),
                    found: "1.40".to_owned(),
                },
                "update it",
            ),
            (
                DockerError::Unreachable {
                    reason: "Permission denied (os error 13)".to_owned(),
                },
                "join the group",
            ),
        ] {
            assert!(
                Remedy::from_error(&error).hint().starts_with(start),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_missing_socket_and_one_without_a_listener_give_different_errors() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("docker.sock");
        let discovery = EngineDiscovery {
            config: folder.path().to_owned(),
            sockets: vec![socket.clone()],
            ..EngineDiscovery::default()
        };
        let error = find(&discovery, &Choice::default(), None)
            .await
            .map_err(Error::from)
            .expect_err("no engine");
        assert_eq!(error.code(), "docker_not_there");
        assert!(
            error
                .to_string()
                .contains("docker.sock (default socket): not found"),
            "{error}"
        );
        // No process listens on the socket any longer.
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind the socket"));
        let error = find(&discovery, &Choice::default(), None)
            .await
            .map_err(Error::from)
            .expect_err("an engine that refuses");
        assert_eq!(error.code(), "docker_refused");
        let hint = error.hint().expect("a hint");
        assert!(
            hint.contains("--docker-host") && hint.contains("--runtime native"),
            "{hint}"
        );
    }
}
