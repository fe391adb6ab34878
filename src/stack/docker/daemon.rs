//! Finds the container engine as the docker command does: the one that is
//! named, else the first usual socket that answers. What was tried is told.

use super::surroundings::{Candidate, Choice, Surroundings, SurroundingsError};
use crate::{
    clients::docker::{Address, DockerError, Engine},
    failure::{Failure, Kind},
};

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub candidate: Candidate,
    pub why: String,
    pub mend: Mend,
}

/// What may make it answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    Start,
    Update,
    JoinGroup,
    Certificates,
    /// Nothing does.
    Another,
}

impl Mend {
    fn of(error: &DockerError) -> Self {
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

    fn words(self) -> &'static str {
        match self {
            Self::Start => "start it (systemctl start docker) or ",
            Self::Update => "update it or ",
            Self::JoinGroup => {
                "join the group that may use it (usermod -aG docker $USER, then log in anew) or "
            }
            Self::Certificates => {
                "name the folder of its ca.pem and of your cert.pem and key.pem \
                 (export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=<folder>) or "
            }
            Self::Another => "",
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("there is no container engine here: {}", listing(.0))]
    NotThere(Vec<Tried>),
    #[error("no container engine answers: {}", listing(.0))]
    Refused(Vec<Tried>),
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
}

impl Failure for DaemonError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotThere(_) | Self::Refused(_) => Kind::Environment,
            Self::Surroundings(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotThere(_) => "docker_not_there",
            Self::Refused(_) => "docker_refused",
            Self::Surroundings(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let all = match self {
            Self::NotThere(all) | Self::Refused(all) => all,
            Self::Surroundings(error) => return error.hint(),
        };
        // What is more than to start it is said first.
        let mut mends = all.iter().map(|tried| tried.mend);
        let mend = mends.find(|mend| *mend != Mend::Start);
        Some(format!(
            "{}name another (--docker-host unix:///…), \
             or run a new project without: fanout --runtime native up",
            mend.unwrap_or(Mend::Start).words()
        ))
    }
}

fn listing(tried: &[Tried]) -> String {
    let one = |tried: &Tried| format!("{}: {}", tried.candidate, tried.why);
    let all: Vec<String> = tried.iter().map(one).collect();
    all.join("; ")
}

/// Finds the engine: the one that is named, else the first usual socket that
/// answers.
///
/// # Errors
/// [`DaemonError::NotThere`] where nothing is named and no socket is there;
/// [`DaemonError::Refused`] where something is and does not answer.
pub async fn find(
    surroundings: &Surroundings,
    choice: &Choice,
    recorded: Option<Address>,
) -> Result<Engine, DaemonError> {
    if let Some(candidate) = surroundings.named(choice, recorded)? {
        return match Engine::connect(&candidate.address).await {
            Ok(engine) => Ok(engine),
            Err(error) => Err(DaemonError::Refused(vec![tried(candidate, &error)])),
        };
    }
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for socket in &surroundings.sockets {
        let candidate = Candidate {
            address: Address {
                host: format!("unix://{}", socket.display()),
                certificates: None,
            },
            whence: "a usual socket".to_owned(),
        };
        if !socket.exists() {
            missing.push(Tried {
                candidate,
                why: "not there".to_owned(),
                mend: Mend::Start,
            });
            continue;
        }
        match Engine::connect(&candidate.address).await {
            Ok(engine) => return Ok(engine),
            Err(error) => refused.push(tried(candidate, &error)),
        }
    }
    Err(if refused.is_empty() {
        DaemonError::NotThere(missing)
    } else {
        DaemonError::Refused(refused)
    })
}

fn tried(candidate: Candidate, error: &DockerError) -> Tried {
    Tried {
        candidate,
        mend: Mend::of(error),
        why: match error {
            DockerError::Unreachable { reason } => reason.clone(),
            DockerError::Address { why, .. } => (*why).to_owned(),
            DockerError::TooOld { found, .. } => {
                format!("it speaks API {found}, and fanout needs 1.41 (Docker 20.10)")
            }
            other => other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_start_mends_is_told_otherwise() {
        let choice = Choice {
            host: Some("ssh://me@there".to_owned()),
            context: None,
        };
        let error = find(&Surroundings::default(), &choice, None)
            .await
            .expect_err("no such way");
        assert_eq!(
            error.to_string(),
            "no container engine answers: ssh://me@there (--docker-host): \
             the ports of its containers would be that machine's; run fanout there"
        );
        let hint = error.hint().expect("a hint");
        assert!(hint.starts_with("name another (--docker-host"), "{hint}");
        for (error, begins) in [
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
            assert!(Mend::of(&error).words().starts_with(begins), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_and_one_that_refuses_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let around = Surroundings {
            config: folder.path().to_owned(),
            sockets: vec![socket.clone()],
            ..Surroundings::default()
        };
        let error = find(&around, &Choice::default(), None)
            .await
            .expect_err("none");
        assert_eq!(error.code(), "docker_not_there");
        assert!(
            error
                .to_string()
                .contains("docker.sock (a usual socket): not there"),
            "{error}"
        );
        // Nobody listens behind it any more.
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
        let error = find(&around, &Choice::default(), None)
            .await
            .expect_err("refused");
        assert_eq!(error.code(), "docker_refused");
        let hint = error.hint().expect("a hint");
        assert!(
            hint.contains("--docker-host") && hint.contains("--runtime native"),
            "{hint}"
        );
    }
}
