//! Containers: create, copy files, start, stop, remove and inspect.

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
    error::{DockerError, none_if_missing, ok_if},
    run_state::{Health, RunState, health, run_state},
};
use crate::time::timestamp;

/// API version that supports a shorter health check interval during the start.
const START_INTERVAL_API: (u32, u32) = (1, 44);

/// Health check interval during the start, if the engine supports it.
const START_INTERVAL: Duration = Duration::from_millis(500);

/// Definition of a new container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewContainer {
    pub name: String,
    pub image: String,
    /// Command; if empty, the image's default.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Ports: inside the container → on this machine's loopback address.
    pub ports: BTreeMap<u16, u16>,
    /// Volumes: name → folder inside the container.
    pub volumes: BTreeMap<String, String>,
    pub network: String,
    /// Names on the network.
    pub aliases: Vec<String>,
    pub health: Option<HealthCheck>,
    pub log: LogLimits,
}

/// Limits of the log that the engine keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogLimits {
    pub file_mib: u64,
    pub files: u32,
}

/// Health check that the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Command run inside the container.
    pub command: Vec<String>,
    pub interval: Duration,
}

/// An existing container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Digest of the container's image.
    pub image: String,
    pub run_state: RunState,
    pub health: Health,
    /// Ports published on this machine while it is running.
    pub ports: Vec<u16>,
    /// Memory limit in bytes, if any.
    pub memory_limit: Option<u64>,
    /// Time of the last start, in milliseconds since the epoch.
    pub started_ms: Option<i64>,
}

impl Container {
    /// Returns whether the container is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.run_state == RunState::Running
    }
}

impl Engine {
    /// Returns the container with this name or id.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn container(&self, name: &str) -> Result<Option<Container>, DockerError> {
        let found = none_if_missing(self.docker.inspect_container(name, None).await)?;
        Ok(found.map(container))
    }

    /// Returns the names of all containers with this label (`name=value`),
    /// running or stopped.
    ///
    /// # Errors
    /// If the engine does not respond.
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
            .filter_map(|container| name(container.names))
            .map(|name| name.trim_start_matches('/').to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Returns the name of the running container that publishes a port of this
    /// machine.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn publisher(&self, port: u16) -> Result<Option<String>, DockerError> {
        let port = port.to_string();
        let filters = HashMap::from([("publish", vec![port.as_str()])]);
        let options = ListContainersOptionsBuilder::new()
            .filters(&filters)
            .build();
        let found = self.docker.list_containers(Some(options)).await?;
        let mut names = found.into_iter().filter_map(|container| container.names);
        let name = names.next().and_then(|names| names.into_iter().next());
        Ok(name.map(|name| name.trim_start_matches('/').to_owned()))
    }

    /// Creates a container without starting it.
    ///
    /// # Errors
    /// If the engine refuses, for instance because the image is missing.
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
            exposed_ports: Some(new.ports.keys().copied().map(container_port).collect()),
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
        let supports_start_interval = self.api >= START_INTERVAL_API;
        HealthConfig {
            test: Some(test),
            interval: Some(nanoseconds(check.interval)),
            timeout: Some(nanoseconds(Duration::from_secs(10))),
            // An unhealthy container is reported by `up` and `status`, not by
            // these retries.
            retries: Some(10),
            start_period: Some(nanoseconds(Duration::from_secs(120))),
            start_interval: supports_start_interval.then(|| nanoseconds(START_INTERVAL)),
        }
    }

    /// Copies files (path inside → text) into an existing container.
    ///
    /// # Errors
    /// If the engine refuses.
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
        let uploaded = self.docker.upload_to_container(name, Some(options), packed);
        Ok(uploaded.await?)
    }

    /// Starts an existing container.
    ///
    /// # Errors
    /// If the engine refuses, for instance because a port is in use.
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        ok_if(&[304], self.docker.start_container(name, None).await)
    }

    /// Stops a container and kills it after `timeout`. Returns whether it had
    /// to be killed.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<bool, DockerError> {
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        ok_if(
            &[304, 404],
            self.docker.stop_container(name, Some(options)).await,
        )?;
        let found = none_if_missing(self.docker.inspect_container(name, None).await)?;
        let code = found.and_then(|container| container.state?.exit_code);
        Ok(code == Some(137))
    }

    /// Removes a container, even a running one, and its anonymous volumes.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn remove(&self, name: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        // 409: another client is removing it.
        ok_if(
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
        (container_port(*inner), Some(vec![binding]))
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

/// Returns the log settings. Every engine has this driver, and its logs can be
/// read back; an engine's default driver may have no limit, or store nothing.
fn log_config(limits: LogLimits) -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from([
            ("max-size".to_owned(), format!("{}m", limits.file_mib)),
            ("max-file".to_owned(), limits.files.to_string()),
        ])),
    }
}

fn container_port(port: u16) -> String {
    format!("{port}/tcp")
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Packs the files into an archive, with their folders, readable for all users
/// inside the container. The image chooses the user that reads them.
fn pack(files: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let parents = files.keys().filter_map(|path| path.rsplit_once('/'));
    let folders = parents.map(|(folder, _)| folder.trim_start_matches('/'));
    let folders: BTreeSet<&str> = folders.filter(|folder| !folder.is_empty()).collect();
    for folder in folders {
        // Otherwise the engine would create the folder, perhaps accessible to
        // root only.
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
        run_state: run_state(&state),
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
