//! Creates a service's container from its spec, and starts it.

use std::time::Duration;

use super::{
    container_spec::ContainerSpec,
    engine::{Container, DockerError, Engine, Resource},
    labels::{self, Foreign, ResourceLabels},
};
use crate::failure::{Failure, Kind};

/// How long to wait for a replaced container to exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Error while creating or starting a container.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("a port of {service} is in use: {message}")]
    Port { service: String, message: String },
    #[error(
        "image {image} of {service} is for {}, but the engine's machine is {}",
        made_for.as_deref().unwrap_or("another architecture"),
        engine
    )]
    Architecture {
        service: String,
        image: String,
        /// Architecture in the image; `None` if it is missing or equal to the
        /// engine's.
        made_for: Option<String>,
        engine: String,
    },
    #[error("{action} failed")]
    Docker {
        action: String,
        #[source]
        source: DockerError,
    },
}

impl Failure for ContainerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Foreign(error) => error.kind(),
            Self::Port { .. } | Self::Architecture { .. } | Self::Docker { .. } => {
                Kind::Environment
            }
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Foreign(error) => error.code(),
            Self::Port { .. } => "port_taken",
            Self::Architecture { .. } => "image_architecture",
            Self::Docker { .. } => "docker_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign(error) => error.hint(),
            Self::Port { .. } => Some("fanout up --ports auto".to_owned()),
            Self::Architecture { service, .. } => Some(format!(
                "set another in fanout.yaml: services: {{{service}: {{image: …}}}}"
            )),
            Self::Docker { .. } => Some("docker info".to_owned()),
        }
    }
}

fn docker(action: impl Into<String>) -> impl FnOnce(DockerError) -> ContainerError {
    let action = action.into();
    |source| ContainerError::Docker { action, source }
}

/// Creates the project's network if it is missing.
///
/// # Errors
/// If its name is used by something else, or the engine refuses.
pub async fn create_network(
    engine: &Engine,
    labels: &ResourceLabels,
) -> Result<(), ContainerError> {
    let network = Resource {
        name: labels.network(),
        labels: labels.network_labels(),
    };
    let action = format!("creating network {}", network.name);
    match engine
        .network(&network.name)
        .await
        .map_err(docker(&action))?
    {
        Some(found) => Ok(labels.check("network", &network.name, &found.labels)?),
        None => engine
            .create_network(&network)
            .await
            .map_err(docker(action)),
    }
}

/// Starts a service's container: the existing one if it matches the spec,
/// otherwise a new one. `report` receives each step.
///
/// # Errors
/// If its name is used by something else, a port is in use, or the engine
/// refuses.
pub async fn start(
    engine: &Engine,
    labels: &ResourceLabels,
    service: &str,
    spec: &ContainerSpec,
    report: impl Fn(&str),
) -> Result<(), ContainerError> {
    let name = &spec.container.name;
    let inspecting = || docker(format!("inspecting container {name}"));
    let found = engine.container(name).await.map_err(inspecting())?;
    if let Some(found) = &found {
        labels.check("container", name, &found.labels)?;
    }
    let image = engine
        .image(&spec.container.image)
        .await
        .map_err(inspecting())?;
    let image = image.unwrap_or_default();
    let matches_spec = |found: &Container| {
        let same = labels::fingerprint(&found.labels) == spec.fingerprint;
        same && found.image == image && !found.is_running()
    };
    if !found.as_ref().is_some_and(matches_spec) {
        if let Some(found) = found {
            remove_container(engine, &found, &report).await?;
        }
        create_volumes(engine, labels, spec).await?;
        report("creating its container");
        create(engine, labels, spec).await?;
    }
    let uploading = docker(format!("copying files into container {name}"));
    engine.upload(name, &spec.files).await.map_err(uploading)?;
    report("starting");
    match engine.start(name).await {
        Err(DockerError::Answer { message, .. }) if is_port_error(&message) => {
            Err(ContainerError::Port {
                service: service.to_owned(),
                message,
            })
        }
        Err(DockerError::Answer { message, .. }) if is_architecture_error(&message) => {
            Err(architecture_error(engine, service, &spec.container.image).await)
        }
        other => other.map_err(docker(format!("starting container {name}"))),
    }
}

fn is_port_error(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

/// Returns whether a message is the kernel's error for a program of another
/// architecture.
#[must_use]
pub fn is_architecture_error(message: &str) -> bool {
    message.to_lowercase().contains("exec format error")
}

/// Builds the error for an image whose program the engine's machine cannot run.
/// It is built only after a failed start, because an image for another
/// architecture may run in an emulator.
pub async fn architecture_error(engine: &Engine, service: &str, image: &str) -> ContainerError {
    let architecture = engine.image_architecture(image).await.ok().flatten();
    ContainerError::Architecture {
        service: service.to_owned(),
        image: image.to_owned(),
        made_for: architecture.filter(|name| *name != engine.architecture),
        engine: engine.architecture.clone(),
    }
}

async fn remove_container(
    engine: &Engine,
    found: &Container,
    report: &impl Fn(&str),
) -> Result<(), ContainerError> {
    let name = &found.name;
    if found.is_running() {
        report("stopping");
        let stopping = docker(format!("stopping container {name}"));
        engine.stop(name, STOP_TIMEOUT).await.map_err(stopping)?;
    }
    let removing = docker(format!("removing container {name}"));
    engine.remove(name).await.map_err(removing)
}

/// Creates the missing volumes before their container: the engine itself would
/// create them without labels.
async fn create_volumes(
    engine: &Engine,
    labels: &ResourceLabels,
    spec: &ContainerSpec,
) -> Result<(), ContainerError> {
    for (name, short) in &spec.volumes {
        let creating = || docker(format!("creating volume {name}"));
        if let Some(found) = engine.volume(name).await.map_err(creating())? {
            labels.check("volume", name, &found.labels)?;
            continue;
        }
        let volume = Resource {
            name: name.clone(),
            labels: labels.volume_labels(short),
        };
        engine.create_volume(&volume).await.map_err(creating())?;
    }
    Ok(())
}

async fn create(
    engine: &Engine,
    labels: &ResourceLabels,
    spec: &ContainerSpec,
) -> Result<(), ContainerError> {
    let name = &spec.container.name;
    let creating = docker(format!("creating container {name}"));
    match engine.create(&spec.container).await {
        // Another process has created a container with this name.
        Err(error) if error.status() == Some(409) => {
            let found = engine.container(name).await;
            let found_labels = found.ok().flatten().map(|found| found.labels);
            labels.check("container", name, &found_labels.unwrap_or_default())?;
            Err(creating(error))
        }
        other => other.map_err(creating),
    }
}
