//! Where the docker command would look for an engine: what the command line
//! names, then the environment, then the current context, then the usual
//! sockets; and the certificates that go with each.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::digest::sha256;
use crate::{
    clients::docker::Address,
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
    /// Folder of the certificates for an address that is named: where
    /// `DOCKER_TLS_VERIFY` is set, `DOCKER_CERT_PATH`, by default [`Self::config`].
    pub certificates: Option<PathBuf>,
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
    pub address: Address,
    pub whence: String,
}

/// Why what is named cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    #[error("docker context {name} cannot be read from {}: {reason}", path.display())]
    Context {
        name: String,
        path: PathBuf,
        reason: String,
    },
    #[error("docker context {name} says not to verify the engine's certificate, which fanout does")]
    Unverified { name: String },
    #[error("{} is no configuration of docker's: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
}

impl Failure for SurroundingsError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Context { .. } | Self::Unverified { .. } => "docker_context",
            Self::Config { .. } => "docker_config",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Context { .. } => "docker context ls".to_owned(),
            Self::Unverified { name } => {
                format!("docker context update {name} --docker host=…,ca=<ca.pem>")
            }
            Self::Config { .. } => {
                "mend the file, or name another: DOCKER_CONFIG=<folder>".to_owned()
            }
        })
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.address.host, self.whence)
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
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
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
        let config = variable("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from);
        let folder = variable("DOCKER_CERT_PATH").map_or_else(|| config.clone(), PathBuf::from);
        Self {
            host: variable("DOCKER_HOST"),
            certificates: variable("DOCKER_TLS_VERIFY").map(|_| folder),
            context: variable("DOCKER_CONTEXT"),
            config,
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
        recorded: Option<Address>,
    ) -> Result<Option<Candidate>, SurroundingsError> {
        let at = |host: &String| Address {
            host: host.clone(),
            certificates: self.certificates.clone(),
        };
        let candidate = |address: Address, whence: &str| {
            Ok(Some(Candidate {
                address,
                whence: whence.to_owned(),
            }))
        };
        if let Some(host) = &choice.host {
            return candidate(at(host), "--docker-host");
        }
        if let Some(name) = &choice.context {
            return self.of_context(name, "--docker-context");
        }
        if let Some(host) = &self.host {
            return candidate(at(host), "DOCKER_HOST");
        }
        if let Some(name) = &self.context {
            return self.of_context(name, "DOCKER_CONTEXT");
        }
        if let Some(address) = recorded {
            return candidate(address, "as recorded");
        }
        match self.current_context()? {
            Some(name) => self.of_context(&name, "the current context"),
            None => Ok(None),
        }
    }

    fn current_context(&self) -> Result<Option<String>, SurroundingsError> {
        let path = self.config.join("config.json");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(None);
        };
        let file: ConfigFile =
            serde_json::from_str(&text).map_err(|error| SurroundingsError::Config {
                path,
                reason: error.to_string(),
            })?;
        Ok(file.current_context.filter(|name| !name.is_empty()))
    }

    /// The address in a context; none for the default one.
    fn of_context(&self, name: &str, whence: &str) -> Result<Option<Candidate>, SurroundingsError> {
        if name == DEFAULT_CONTEXT {
            return Ok(None);
        }
        let id = sha256(name.as_bytes());
        let contexts = self.config.join("contexts");
        let path = contexts.join("meta").join(&id).join("meta.json");
        let read = |path: &Path| -> Result<Meta, String> {
            let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let endpoint = match read(&path) {
            Ok(meta) => meta.endpoints.docker,
            Err(reason) => {
                let name = name.to_owned();
                return Err(SurroundingsError::Context { name, path, reason });
            }
        };
        if endpoint.skip_tls_verify {
            let name = name.to_owned();
            return Err(SurroundingsError::Unverified { name });
        }
        let certificates = contexts.join("tls").join(&id).join("docker");
        Ok(Some(Candidate {
            address: Address {
                host: endpoint.host,
                certificates: certificates.is_dir().then_some(certificates),
            },
            whence: format!("{whence} {name}"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_context(folder: &Path, name: &str, host: &str) {
        let id = sha256(name.as_bytes());
        let place = folder.join("contexts/meta").join(id);
        fs::create_dir_all(&place).expect("made");
        let meta = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        fs::write(place.join("meta.json"), meta).expect("written");
    }

    fn host(found: Option<Candidate>) -> Option<String> {
        found.map(|candidate| candidate.address.host)
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
            certificates: None,
            context: Some("exported".to_owned()),
            config: folder.path().to_owned(),
            sockets: Vec::new(),
        };
        let mut choice = Choice {
            host: Some("tcp://flag:1".to_owned()),
            context: Some("flagged".to_owned()),
        };
        let recorded = || Address {
            host: "unix:///recorded".to_owned(),
            certificates: None,
        };
        let next = |choice: &Choice, around: &Surroundings| {
            host(around.named(choice, Some(recorded())).expect("readable"))
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
    fn certificates_go_with_what_names_the_address() {
        let folder = tempfile::tempdir().expect("a folder");
        with_context(folder.path(), "far", "tcp://far:2376");
        let id = sha256(b"far");
        let place = folder.path().join("contexts/tls").join(id).join("docker");
        let mut around = Surroundings {
            certificates: Some("/of/the/environment".into()),
            config: folder.path().to_owned(),
            ..Surroundings::default()
        };
        let mut choice = Choice {
            host: Some("tcp://near:2376".to_owned()),
            context: Some("far".to_owned()),
        };
        let next = |choice: &Choice, around: &Surroundings| {
            let named = around.named(choice, None).expect("readable");
            named.expect("one").address.certificates
        };
        let environment = Some(PathBuf::from("/of/the/environment"));
        assert_eq!(next(&choice, &around), environment);
        choice.host = None;
        assert_eq!(next(&choice, &around), None);
        fs::create_dir_all(&place).expect("made");
        assert_eq!(next(&choice, &around), Some(place));
        around.host = Some("tcp://there:2376".to_owned());
        assert_eq!(next(&Choice::default(), &around), environment);
    }

    #[test]
    fn a_context_that_does_not_verify_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        with_context(
            folder.path(),
            "blind",
            r#"tcp://far:2376","SkipTLSVerify":true,"x":"y"#,
        );
        let around = Surroundings {
            context: Some("blind".to_owned()),
            config: folder.path().to_owned(),
            ..Surroundings::default()
        };
        let error = around.named(&Choice::default(), None).expect_err("blind");
        assert!(
            error
                .to_string()
                .contains("context blind says not to verify"),
            "{error}"
        );
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
}
