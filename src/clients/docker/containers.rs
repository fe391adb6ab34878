//! Containers: made, given their files, started, stopped, removed, looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bollard::{
    body_full,
    models::{
        ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HealthConfig, HostConfig,
        HostConfigLogConfig, Mount, MountType, NetworkingConfig, PortBinding,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};

use super::{
    Engine,
    error::{DockerError, fine_if, none_if_missing},
    life::{Health, Life, health, life},
};
use crate::timestamp;

/// From this API on a starting container may be asked more often.
const START_INTERVAL_API: (u32, u32) = (1, 44);

/// How often a container that has just started is asked, where the engine can.
const START_INTERVAL: Duration = Duration::from_millis(500);

/// All that a new container is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewContainer {
    pub name: String,
    pub image: String,
    /// Empty means the image's own.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Port inside → port of this machine's loopback.
    pub ports: BTreeMap<u16, u16>,
    /// Volume → folder inside.
    pub volumes: BTreeMap<String, String>,
    pub network: String,
    /// Its names on the network.
    pub aliases: Vec<String>,
    pub health: Option<HealthCheck>,
    pub log: LogLimits,
}

/// How much of what a container says the engine keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogLimits {
    pub file_mib: u64,
    pub files: u32,
}

/// How the engine asks a container whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Run inside.
    pub command: Vec<String>,
    pub interval: Duration,
}

/// A container as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Digest of the image that it was made from.
    pub image: String,
    pub life: Life,
    pub health: Health,
    /// Ports of this machine that it publishes while it runs.
    pub ports: Vec<u16>,
    /// Bytes of memory that it may have, where it is limited.
    pub memory_limit: Option<u64>,
    /// Milliseconds since the epoch at which it last started.
    pub started_ms: Option<i64>,
}

impl Container {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.life == Life::Running
    }
}

impl Engine {
    /// The container of this name or id.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn container(&self, name: &str) -> Result<Option<Container>, DockerError> {
        let found = none_if_missing(self.docker.inspect_container(name, None).await)?;
        Ok(found.map(container))
    }

    /// The names of all containers, running or not, that bear this label
    /// (`name=value`).
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn containers(&self, label: &str) -> Result<Vec<String>, DockerError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = self.docker.list_containers(Some(options)).await?;
        let name = |names: Option<Vec<String>>| names?.into_iter().next();
        let mut names: Vec<String> = found
            .into_iter()
            .filter_map(|one| name(one.names))
            .map(|name| name.trim_start_matches('/').to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The name of a running container that publishes a port of this machine.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn publisher(&self, port: u16) -> Result<Option<String>, DockerError> {
        let port = port.to_string();
        let filters = HashMap::from([("publish", vec![port.as_str()])]);
        let options = ListContainersOptionsBuilder::new()
            .filters(&filters)
            .build();
        let found = self.docker.list_containers(Some(options)).await?;
        let mut names = found.into_iter().filter_map(|one| one.names);
        let name = names.next().and_then(|names| names.into_iter().next());
        Ok(name.map(|name| name.trim_start_matches('/').to_owned()))
    }

    /// Makes a container; does not start it.
    ///
    /// # Errors
    /// When the engine does not, for instance for want of the image.
    pub async fn create(&self, new: &NewContainer) -> Result<(), DockerError> {
        let options = CreateContainerOptionsBuilder::new().name(&new.name).build();
        let body = self.body(new);
        self.docker.create_container(Some(options), body).await?;
        Ok(())
    }

    fn body(&self, new: &NewContainer) -> ContainerCreateBody {
        let env = new
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let endpoint = EndpointSettings {
            aliases: Some(new.aliases.clone()),
            ..EndpointSettings::default()
        };
        ContainerCreateBody {
            image: Some(new.image.clone()),
            cmd: (!new.command.is_empty()).then(|| new.command.clone()),
            env: Some(env.collect()),
            labels: Some(new.labels.clone().into_iter().collect()),
            exposed_ports: Some(new.ports.keys().copied().map(inner_port).collect()),
            healthcheck: new.health.as_ref().map(|check| self.health(check)),
            host_config: Some(host_config(new)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(new.network.clone(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        }
    }

    fn health(&self, check: &HealthCheck) -> HealthConfig {
        let mut test = vec!["CMD".to_owned()];
        test.extend(check.command.iter().cloned());
        let early = self.api >= START_INTERVAL_API;
        HealthConfig {
            test: Some(test),
            interval: Some(nanos(check.interval)),
            timeout: Some(nanos(Duration::from_secs(10))),
            // One that is not well is told by `up` and `status`, not by this.
            retries: Some(10),
            start_period: Some(nanos(Duration::from_secs(120))),
            start_interval: early.then(|| nanos(START_INTERVAL)),
        }
    }

    /// Puts files (path inside → text) into a container that is there.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn upload(
        &self,
        name: &str,
        files: &BTreeMap<String, String>,
    ) -> Result<(), DockerError> {
        if files.is_empty() {
            return Ok(());
        }
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let packed = body_full(pack(files)?.into());
        let done = self.docker.upload_to_container(name, Some(options), packed);
        Ok(done.await?)
    }

    /// Starts a container that is there.
    ///
    /// # Errors
    /// When the engine does not, for instance because a port is taken.
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        fine_if(&[304], self.docker.start_container(name, None).await)
    }

    /// Asks a container to end, kills it after `patience`; says whether it had
    /// to be killed.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn stop(&self, name: &str, patience: Duration) -> Result<bool, DockerError> {
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        fine_if(
            &[304, 404],
            self.docker.stop_container(name, Some(options)).await,
        )?;
        let found = none_if_missing(self.docker.inspect_container(name, None).await)?;
        let code = found.and_then(|one| one.state?.exit_code);
        Ok(code == Some(137))
    }

    /// Removes a container, whatever it does, and its nameless volumes.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn remove(&self, name: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        // 409: somebody else is removing it.
        fine_if(
            &[404, 409],
            self.docker.remove_container(name, Some(options)).await,
        )
    }
}

fn host_config(new: &NewContainer) -> HostConfig {
    let bindings = new.ports.iter().map(|(inner, outer)| {
        let binding = PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some(outer.to_string()),
        };
        (inner_port(*inner), Some(vec![binding]))
    });
    let mounts = new.volumes.iter().map(|(volume, folder)| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.clone()),
        target: Some(folder.clone()),
        ..Mount::default()
    });
    HostConfig {
        port_bindings: Some(bindings.collect()),
        mounts: Some(mounts.collect()),
        network_mode: Some(new.network.clone()),
        log_config: Some(log_config(new.log)),
        ..HostConfig::default()
    }
}

/// The driver that every engine has, and that keeps what is asked for again: an
/// engine's default may bound nothing, or keep nothing.
fn log_config(limits: LogLimits) -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from([
            ("max-size".to_owned(), format!("{}m", limits.file_mib)),
            ("max-file".to_owned(), limits.files.to_string()),
        ])),
    }
}

fn inner_port(port: u16) -> String {
    format!("{port}/tcp")
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// An archive of files that everyone may read, in folders of their own: who
/// reads them inside is the image's choice, and nobody else is inside.
fn pack(files: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let parents = files.keys().filter_map(|path| path.rsplit_once('/'));
    let folders = parents.map(|(folder, _)| folder.trim_start_matches('/'));
    let folders: BTreeSet<&str> = folders.filter(|folder| !folder.is_empty()).collect();
    for folder in folders {
        // An engine would make it as it likes, for root alone perhaps.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        archive.append_data(&mut header, folder, std::io::empty())?;
    }
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o444);
        let path = path.trim_start_matches('/');
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    archive.into_inner()
}

fn container(found: ContainerInspectResponse) -> Container {
    let config = found.config.unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let name = found.name.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    Container {
        id: found.id.unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        image: found.image.unwrap_or_default(),
        memory_limit: host
            .memory
            .and_then(|bytes| u64::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0),
        ports: published(host),
        health: health(&state),
        started_ms: state
            .started_at
            .as_deref()
            .and_then(timestamp::parse)
            .map(|micros| micros / 1000),
        life: life(&state),
    }
}

fn published(host: HostConfig) -> Vec<u16> {
    let bindings = host.port_bindings.unwrap_or_default().into_values();
    let ports = bindings.flatten().flatten();
    ports
        .filter_map(|binding| binding.host_port?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_log_is_bounded() {
        let new = NewContainer {
            log: LogLimits {
                file_mib: 10,
                files: 5,
            },
            ..NewContainer::default()
        };
        let log = host_config(&new).log_config.expect("bounds");
        assert_eq!(log.typ.as_deref(), Some("json-file"));
        let options = log.config.expect("options");
        assert_eq!(options["max-size"], "10m");
        assert_eq!(options["max-file"], "5");
    }

    #[test]
    fn files_are_packed_under_their_paths() {
        let files = BTreeMap::from([("/a/b.conf".to_owned(), "text".to_owned())]);
        let packed = pack(&files).expect("packed");
        let mut archive = tar::Archive::new(packed.as_slice());
        let mut entries = archive.entries().expect("an archive");
        let folder = entries.next().expect("an entry").expect("whole");
        assert_eq!(folder.header().mode().expect("a mode"), 0o755);
        let entry = entries.next().expect("an entry").expect("whole");
        assert_eq!(entry.path().expect("a path").to_str(), Some("a/b.conf"));
        assert_eq!(entry.header().mode().expect("a mode"), 0o444);
    }
}
