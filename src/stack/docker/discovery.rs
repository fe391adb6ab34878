//! Engine discovery: the addresses that the docker command would use, in the
//! order command line, environment, current context and default sockets, and
//! the certificates for each.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{digest::sha256, engine::Address};
use crate::failure::{Error, Kind};

/// Name of the context that means the default sockets.
const DEFAULT_CONTEXT: &str = "default";

/// Engine configured on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// `unix:///run/docker.sock`.
    pub host: Option<String>,
    /// Name of a docker context.
    pub context: Option<String>,
}

/// Settings of this machine for finding an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineDiscovery {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// Folder of the certificates for an address without a context: if
    /// `DOCKER_TLS_VERIFY` is set, `DOCKER_CERT_PATH`, by default
    /// [`Self::config`].
    pub certificates: Option<PathBuf>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, by default `~/.docker`.
    pub config: PathBuf,
    /// Sockets that are tried in this order if no address is configured.
    pub sockets: Vec<PathBuf>,
}

/// Possible address of an engine, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub address: Address,
    pub origin: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.address.host, self.origin)
    }
}

/// The part of `config.json` with the current context.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    current_context: Option<String>,
}

/// The part of a context's `meta.json` with the address.
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

impl EngineDiscovery {
    /// Reads the settings from the environment of this process.
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

    /// Returns the configured address, or `None` if none is configured.
    /// `recorded` is the engine that the project was started with.
    ///
    /// # Errors
    /// If the configured context cannot be read.
    pub fn configured(
        &self,
        choice: &Choice,
        recorded: Option<Address>,
    ) -> Result<Option<Candidate>, Error> {
        let with_certificates = |host: &String| Address {
            host: host.clone(),
            certificates: self.certificates.clone(),
        };
        let candidate = |address: Address, origin: &str| {
            Ok(Some(Candidate {
                address,
                origin: origin.to_owned(),
            }))
        };
        if let Some(host) = &choice.host {
            return candidate(with_certificates(host), "--docker-host");
        }
        if let Some(name) = &choice.context {
            return self.context_address(name, "--docker-context");
        }
        if let Some(host) = &self.host {
            return candidate(with_certificates(host), "DOCKER_HOST");
        }
        if let Some(name) = &self.context {
            return self.context_address(name, "DOCKER_CONTEXT");
        }
        if let Some(address) = recorded {
            return candidate(address, "recorded");
        }
        match self.current_context()? {
            Some(name) => self.context_address(&name, "the current context"),
            None => Ok(None),
        }
    }

    fn current_context(&self) -> Result<Option<String>, Error> {
        let path = self.config.join("config.json");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(None);
        };
        let file: ConfigFile = serde_json::from_str(&text).map_err(|error| {
            let path = path.display();
            let message = format!("{path} is not a valid docker configuration: {error}");
            Error::new(Kind::Environment, "docker_config", message)
                .with_hint("fix the file, or use another: DOCKER_CONFIG=<folder>")
        })?;
        Ok(file.current_context.filter(|name| !name.is_empty()))
    }

    /// Returns the address in a context; `None` for the default context.
    fn context_address(&self, name: &str, origin: &str) -> Result<Option<Candidate>, Error> {
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
                let path = path.display();
                let message = format!("docker context {name} cannot be read from {path}: {reason}");
                return Err(Error::new(Kind::Environment, "docker_context", message)
                    .with_hint("docker context ls"));
            }
        };
        if endpoint.skip_tls_verify {
            let message = format!(
                "docker context {name} disables verification of the engine's certificate, which \
                 fanout requires"
            );
            let hint = format!("docker context update {name} --docker host=…,ca=<ca.pem>");
            return Err(Error::new(Kind::Environment, "docker_context", message).with_hint(hint));
        }
        let certificates = contexts.join("tls").join(&id).join("docker");
        Ok(Some(Candidate {
            address: Address {
                host: endpoint.host,
                certificates: certificates.is_dir().then_some(certificates),
            },
            origin: format!("{origin} {name}"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_context(folder: &Path, name: &str, host: &str) {
        let id = sha256(name.as_bytes());
        let folder_path = folder.join("contexts/meta").join(id);
        fs::create_dir_all(&folder_path).expect("create the folder");
        let meta = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        fs::write(folder_path.join("meta.json"), meta).expect("write the file");
    }

    fn host(found: Option<Candidate>) -> Option<String> {
        found.map(|candidate| candidate.address.host)
    }

    #[test]
    fn the_command_line_precedes_the_environment_and_that_the_current_context() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["flagged", "exported", "current"] {
            with_context(folder.path(), name, &format!("unix:///{name}"));
        }
        let config = r#"{"currentContext": "current", "auths": {}}"#;
        fs::write(folder.path().join("config.json"), config).expect("write the file");
        let mut discovery = EngineDiscovery {
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
        let configured_host = |choice: &Choice, discovery: &EngineDiscovery| {
            host(
                discovery
                    .configured(choice, Some(recorded()))
                    .expect("readable"),
            )
        };
        assert_eq!(
            configured_host(&choice, &discovery).as_deref(),
            Some("tcp://flag:1")
        );
        choice.host = None;
        assert_eq!(
            configured_host(&choice, &discovery).as_deref(),
            Some("unix:///flagged")
        );
        choice.context = None;
        assert_eq!(
            configured_host(&choice, &discovery).as_deref(),
            Some("unix:///host")
        );
        discovery.host = None;
        assert_eq!(
            configured_host(&choice, &discovery).as_deref(),
            Some("unix:///exported")
        );
        discovery.context = None;
        assert_eq!(
            configured_host(&choice, &discovery).as_deref(),
            Some("unix:///recorded")
        );
        let last = discovery.configured(&choice, None).expect("readable");
        assert_eq!(host(last).as_deref(), Some("unix:///current"));
    }

    #[test]
    fn certificates_come_from_the_origin_of_the_address() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        with_context(folder.path(), "far", "tcp://far:2376");
        let id = sha256(b"far");
        let folder_path = folder.path().join("contexts/tls").join(id).join("docker");
        let mut discovery = EngineDiscovery {
            certificates: Some("/of/the/environment".into()),
            config: folder.path().to_owned(),
            ..EngineDiscovery::default()
        };
        let mut choice = Choice {
            host: Some("tcp://near:2376".to_owned()),
            context: Some("far".to_owned()),
        };
        let configured_host = |choice: &Choice, discovery: &EngineDiscovery| {
            let configured = discovery.configured(choice, None).expect("readable");
            configured.expect("an address").address.certificates
        };
        let environment = Some(PathBuf::from("/of/the/environment"));
        assert_eq!(configured_host(&choice, &discovery), environment);
        choice.host = None;
        assert_eq!(configured_host(&choice, &discovery), None);
        fs::create_dir_all(&folder_path).expect("create the folder");
        assert_eq!(configured_host(&choice, &discovery), Some(folder_path));
        discovery.host = Some("tcp://there:2376".to_owned());
        assert_eq!(configured_host(&Choice::default(), &discovery), environment);
    }

    #[test]
    fn a_context_that_does_not_verify_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        with_context(
            folder.path(),
            "blind",
            r#"tcp://far:2376","SkipTLSVerify":true,"x":"y"#,
        );
        let discovery = EngineDiscovery {
            context: Some("blind".to_owned()),
            config: folder.path().to_owned(),
            ..EngineDiscovery::default()
        };
        let error = discovery
            .configured(&Choice::default(), None)
            .expect_err("no verification");
        assert!(
            error
                .to_string()
                .contains("context blind disables verification"),
            "{error}"
        );
    }

    #[test]
    fn the_default_context_has_no_address() {
        let discovery = EngineDiscovery {
            context: Some("default".to_owned()),
            ..EngineDiscovery::default()
        };
        assert_eq!(
            discovery
                .configured(&Choice::default(), None)
                .expect("readable"),
            None
        );
    }

    #[test]
    fn a_missing_context_is_reported() {
        let discovery = EngineDiscovery {
            context: Some("gone".to_owned()),
            config: PathBuf::from("/nowhere"),
            ..EngineDiscovery::default()
        };
        let error = discovery
            .configured(&Choice::default(), None)
            .expect_err("a missing context");
        assert!(
            error
                .to_string()
                .starts_with("docker context gone cannot be read"),
            "{error}"
        );
    }
}
