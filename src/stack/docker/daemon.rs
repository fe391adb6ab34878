//! Finds the container engine as the docker command does: what the command
//! line names, then the environment, then the current context, then the usual
//! sockets. What was tried is told.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::owner::hex;
use crate::{
    clients::docker::{DockerError, Engine},
    failure::{Failure, Kind},
};

/// The context that stands for the usual sockets.
const DEFAULT_CONTEXT: &str = "default";

/// What the operator names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// `unix:///run/docker.sock`.
    pub host: Option<String>,
    /// A context of the docker command's.
    pub context: Option<String>,
}

/// What the machine says of engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, by default `~/.docker`.
    pub config: PathBuf,
    /// Sockets that are tried when nothing is named, in this order.
    pub sockets: Vec<PathBuf>,
}

/// An address that may be an engine's, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub host: String,
    pub whence: String,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub candidate: Candidate,
    pub why: String,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("there is no container engine here: {}", listing(.0))]
    NotThere(Vec<Tried>),
    #[error("no container engine answers: {}", listing(.0))]
    Refused(Vec<Tried>),
    #[error("docker context {name} cannot be read from {}: {reason}", path.display())]
    Context {
        name: String,
        path: PathBuf,
        reason: String,
    },
    #[error("{} is no configuration of docker's: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
}

impl Failure for DaemonError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotThere(_) => "docker_not_there",
            Self::Refused(_) => "docker_refused",
            Self::Context { .. } => "docker_context",
            Self::Config { .. } => "docker_config",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotThere(_) | Self::Refused(_) => {
                let denied = |tried: &Tried| tried.why.to_lowercase().contains("permission denied");
                let start = match self {
                    Self::Refused(all) if all.iter().any(denied) => {
                        "join the group that may use it (usermod -aG docker $USER, then log in anew)"
                    }
                    _ => "start it (systemctl start docker)",
                };
                format!(
                    "{start} or name another (--docker-host unix:///…), \
                     or run a new project without: fanout --runtime native up"
                )
            }
            Self::Context { .. } => "docker context ls".to_owned(),
            Self::Config { .. } => {
                "mend the file, or name another: DOCKER_CONFIG=<folder>".to_owned()
            }
        })
    }
}

fn listing(tried: &[Tried]) -> String {
    let one = |tried: &Tried| format!("{}: {}", tried.candidate, tried.why);
    let all: Vec<String> = tried.iter().map(one).collect();
    all.join("; ")
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.host, self.whence)
    }
}

/// The part of `config.json` that names a context.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    current_context: Option<String>,
}

/// The part of a context's `meta.json` that names an address.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: DockerEndpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEndpoint {
    host: String,
}

impl Surroundings {
    /// Of this process.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let home = env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        let run = variable("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/run/user/{}", nix::unistd::geteuid())),
            PathBuf::from,
        );
        Self {
            host: variable("DOCKER_HOST"),
            context: variable("DOCKER_CONTEXT"),
            config: variable("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from),
            sockets: vec![
                PathBuf::from("/var/run/docker.sock"),
                run.join("docker.sock"),
                home.join(".docker/run/docker.sock"),
                home.join(".colima/default/docker.sock"),
                run.join("podman/podman.sock"),
                PathBuf::from("/run/podman/podman.sock"),
            ],
        }
    }

    /// The one address that somebody names; none where nobody does. `recorded`
    /// is what the project was brought up with.
    ///
    /// # Errors
    /// When a context is named and cannot be read.
    pub fn named(
        &self,
        choice: &Choice,
        recorded: Option<&str>,
    ) -> Result<Option<Candidate>, DaemonError> {
        let candidate = |host: &str, whence: &str| {
            Ok(Some(Candidate {
                host: host.to_owned(),
                whence: whence.to_owned(),
            }))
        };
        if let Some(host) = &choice.host {
            return candidate(host, "--docker-host");
        }
        if let Some(name) = &choice.context {
            return self.of_context(name, "--docker-context");
        }
        if let Some(host) = &self.host {
            return candidate(host, "DOCKER_HOST");
        }
        if let Some(name) = &self.context {
            return self.of_context(name, "DOCKER_CONTEXT");
        }
        if let Some(host) = recorded {
            return candidate(host, "as recorded");
        }
        match self.current_context()? {
            Some(name) => self.of_context(&name, "the current context"),
            None => Ok(None),
        }
    }

    fn current_context(&self) -> Result<Option<String>, DaemonError> {
        let path = self.config.join("config.json");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(None);
        };
        let file: ConfigFile =
            serde_json::from_str(&text).map_err(|error| DaemonError::Config {
                path,
                reason: error.to_string(),
            })?;
        Ok(file.current_context.filter(|name| !name.is_empty()))
    }

    /// The address in a context; none for the default one.
    fn of_context(&self, name: &str, whence: &str) -> Result<Option<Candidate>, DaemonError> {
        if name == DEFAULT_CONTEXT {
            return Ok(None);
        }
        let folder = hex(&Sha256::digest(name.as_bytes()));
        let path = self
            .config
            .join("contexts/meta")
            .join(folder)
            .join("meta.json");
        let read = |path: &Path| -> Result<Meta, String> {
            let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        match read(&path) {
            Ok(meta) => Ok(Some(Candidate {
                host: meta.endpoints.docker.host,
                whence: format!("{whence} {name}"),
            })),
            Err(reason) => Err(DaemonError::Context {
                name: name.to_owned(),
                path,
                reason,
            }),
        }
    }
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
    recorded: Option<&str>,
) -> Result<Engine, DaemonError> {
    if let Some(candidate) = surroundings.named(choice, recorded)? {
        return match Engine::connect(&candidate.host).await {
            Ok(engine) => Ok(engine),
            Err(error) => Err(DaemonError::Refused(vec![tried(candidate, &error)])),
        };
    }
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for socket in &surroundings.sockets {
        let candidate = Candidate {
            host: format!("unix://{}", socket.display()),
            whence: "a usual socket".to_owned(),
        };
        if !socket.exists() {
            missing.push(Tried {
                candidate,
                why: "not there".to_owned(),
            });
            continue;
        }
        match Engine::connect(&candidate.host).await {
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
        why: match error {
            DockerError::Unreachable { reason } => reason.clone(),
            other => other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_context(folder: &Path, name: &str, host: &str) {
        let id = hex(&Sha256::digest(name.as_bytes()));
        let place = folder.join("contexts/meta").join(id);
        fs::create_dir_all(&place).expect("made");
        let meta = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        fs::write(place.join("meta.json"), meta).expect("written");
    }

    fn host(found: Option<Candidate>) -> Option<String> {
        found.map(|candidate| candidate.host)
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_the_current_context() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["flagged", "exported", "current"] {
            with_context(folder.path(), name, &format!("unix:///{name}"));
        }
        let config = r#"{"currentContext": "current", "auths": {}}"#;
        fs::write(folder.path().join("config.json"), config).expect("written");
        let mut around = Surroundings {
            host: Some("unix:///host".to_owned()),
            context: Some("exported".to_owned()),
            config: folder.path().to_owned(),
            sockets: Vec::new(),
        };
        let mut choice = Choice {
            host: Some("tcp://flag:1".to_owned()),
            context: Some("flagged".to_owned()),
        };
        let next = |choice: &Choice, around: &Surroundings| {
            host(
                around
                    .named(choice, Some("unix:///recorded"))
                    .expect("readable"),
            )
        };
        assert_eq!(next(&choice, &around).as_deref(), Some("tcp://flag:1"));
        choice.host = None;
        assert_eq!(next(&choice, &around).as_deref(), Some("unix:///flagged"));
        choice.context = None;
        assert_eq!(next(&choice, &around).as_deref(), Some("unix:///host"));
        around.host = None;
        assert_eq!(next(&choice, &around).as_deref(), Some("unix:///exported"));
        around.context = None;
        assert_eq!(next(&choice, &around).as_deref(), Some("unix:///recorded"));
        let last = around.named(&choice, None).expect("readable");
        assert_eq!(host(last).as_deref(), Some("unix:///current"));
    }

    #[test]
    fn the_default_context_names_nothing() {
        let around = Surroundings {
            context: Some("default".to_owned()),
            ..Surroundings::default()
        };
        assert_eq!(around.named(&Choice::default(), None).expect("fine"), None);
    }

    #[test]
    fn a_context_that_is_not_there_is_told() {
        let around = Surroundings {
            context: Some("gone".to_owned()),
            config: PathBuf::from("/nowhere"),
            ..Surroundings::default()
        };
        let error = around.named(&Choice::default(), None).expect_err("gone");
        assert!(
            error
                .to_string()
                .starts_with("docker context gone cannot be read"),
            "{error}"
        );
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
