//! Makes a service's container what its recipe says, and starts it.

use std::time::Duration;

use super::{
    owner::{self, Foreign, Owner},
    recipe::Recipe,
};
use crate::{
    clients::docker::{Container, DockerError, Engine, Thing},
    failure::{Failure, Kind},
};

/// How long a container that is replaced may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Why a container is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("a port of {service} is taken: {said}")]
    Port { service: String, said: String },
    #[error(
        "image {image} of {service} is made for {}, and the engine's machine is {}",
        made_for.as_deref().unwrap_or("another architecture"),
        engine
    )]
    Architecture {
        service: String,
        image: String,
        /// None where the image says the same as the engine, or nothing.
        made_for: Option<String>,
        engine: String,
    },
    #[error("{what} did not work")]
    Docker {
        what: String,
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
                "name another in fanout.yaml: services: {{{service}: {{image: …}}}}"
            )),
            Self::Docker { .. } => Some("docker info".to_owned()),
        }
    }
}

fn docker(what: impl Into<String>) -> impl FnOnce(DockerError) -> ContainerError {
    let what = what.into();
    |source| ContainerError::Docker { what, source }
}

/// Makes the project's network, where it is not there.
///
/// # Errors
/// When another's is in its place, or the engine does not.
pub async fn network(engine: &Engine, owner: &Owner) -> Result<(), ContainerError> {
    let network = Thing {
        name: owner.network(),
        labels: owner.network_labels(),
    };
    let what = format!("making network {}", network.name);
    match engine.network(&network.name).await.map_err(docker(&what))? {
        Some(found) => Ok(owner.check("network", &network.name, &found.labels)?),
        None => engine.create_network(&network).await.map_err(docker(what)),
    }
}

/// Starts a service's container: the one that is there where it is as the
/// recipe says, else a new one in its place. `doing` is told each step.
///
/// # Errors
/// When another's is in its place, a port is taken, or the engine does not.
pub async fn start(
    engine: &Engine,
    owner: &Owner,
    service: &str,
    recipe: &Recipe,
    doing: impl Fn(&str),
) -> Result<(), ContainerError> {
    let name = &recipe.container.name;
    let looking = || docker(format!("looking for container {name}"));
    let found = engine.container(name).await.map_err(looking())?;
    if let Some(found) = &found {
        owner.check("container", name, &found.labels)?;
    }
    let image = engine
        .image(&recipe.container.image)
        .await
        .map_err(looking())?;
    let image = image.unwrap_or_default();
    let good = |found: &Container| {
        let same = owner::fingerprint(&found.labels) == recipe.fingerprint;
        same && found.image == image && !found.is_running()
    };
    if !found.as_ref().is_some_and(good) {
        if let Some(found) = found {
            clear(engine, &found, &doing).await?;
        }
        volumes(engine, owner, recipe).await?;
        doing("making its container");
        create(engine, owner, recipe).await?;
    }
    let uploading = docker(format!("putting files into container {name}"));
    engine
        .upload(name, &recipe.files)
        .await
        .map_err(uploading)?;
    doing("starting");
    match engine.start(name).await {
        Err(DockerError::Answer { message, .. }) if is_about_a_port(&message) => {
            Err(ContainerError::Port {
                service: service.to_owned(),
                said: message,
            })
        }
        Err(DockerError::Answer { message, .. }) if is_about_the_architecture(&message) => {
            Err(other_architecture(engine, service, &recipe.container.image).await)
        }
        other => other.map_err(docker(format!("starting container {name}"))),
    }
}

fn is_about_a_port(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

/// What the kernel says of a program that was made for other processors.
#[must_use]
pub fn is_about_the_architecture(said: &str) -> bool {
    said.to_lowercase().contains("exec format error")
}

/// Of an image whose program the engine's machine cannot run. One that says
/// that it was made for another may all the same: there are emulators.
pub async fn other_architecture(engine: &Engine, service: &str, image: &str) -> ContainerError {
    let said = engine.image_architecture(image).await.ok().flatten();
    ContainerError::Architecture {
        service: service.to_owned(),
        image: image.to_owned(),
        made_for: said.filter(|said| *said != engine.architecture),
        engine: engine.architecture.clone(),
    }
}

async fn clear(
    engine: &Engine,
    found: &Container,
    doing: &impl Fn(&str),
) -> Result<(), ContainerError> {
    let name = &found.name;
    if found.is_running() {
        doing("stopping");
        let stopping = docker(format!("stopping container {name}"));
        engine.stop(name, STOP_PATIENCE).await.map_err(stopping)?;
    }
    let removing = docker(format!("removing container {name}"));
    engine.remove(name).await.map_err(removing)
}

/// Volumes are made before their container, with labels of their own: the
/// engine would make them without.
async fn volumes(engine: &Engine, owner: &Owner, recipe: &Recipe) -> Result<(), ContainerError> {
    for (name, short) in &recipe.volumes {
        let making = || docker(format!("making volume {name}"));
        if let Some(found) = engine.volume(name).await.map_err(making())? {
            owner.check("volume", name, &found.labels)?;
            continue;
        }
        let volume = Thing {
            name: name.clone(),
            labels: owner.volume_labels(short),
        };
        engine.create_volume(&volume).await.map_err(making())?;
    }
    Ok(())
}

async fn create(engine: &Engine, owner: &Owner, recipe: &Recipe) -> Result<(), ContainerError> {
    let name = &recipe.container.name;
    let making = docker(format!("making container {name}"));
    match engine.create(&recipe.container).await {
        // Somebody was quicker.
        Err(error) if error.status() == Some(409) => {
            let found = engine.container(name).await;
            let labels = found.ok().flatten().map(|found| found.labels);
            owner.check("container", name, &labels.unwrap_or_default())?;
            Err(making(error))
        }
        other => other.map_err(making),
    }
}
