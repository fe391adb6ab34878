//! Creates a service's container from its spec, and starts it.

use std::time::Duration;

use super::{
    container_spec::ContainerSpec,
    engine::{Container, DockerError, Engine, Resource},
    labels::{self, ResourceLabels},
};
use crate::failure::{Command, Error, Kind};

/// How long to wait for a replaced container to exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

fn docker(action: impl Into<String>) -> impl FnOnce(DockerError) -> Error {
    let action = action.into();
    move |error| error.during(format!("{action} failed"))
}

/// Creates the project's network if it is missing.
///
/// # Errors
/// If its name is used by something else, or the engine refuses.
pub async fn create_network(engine: &Engine, labels: &ResourceLabels) -> Result<(), Error> {
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
        Some(found) => labels.check("network", &network.name, &found.labels),
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
) -> Result<(), Error> {
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
            let message = format!("a port of {service} is in use: {message}");
            Err(Error::new(Kind::Environment, "port_taken", message)
                .with_hint(Command::new("up").flag("--ports", "auto")))
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
pub async fn architecture_error(engine: &Engine, service: &str, image: &str) -> Error {
    let architecture = engine.image_architecture(image).await.ok().flatten();
    // The image may name the engine's architecture and be for another.
    let architecture = architecture.filter(|name| *name != engine.architecture);
    let message = format!(
        "image {image} of {service} is for {}, but the engine's machine is {}",
        architecture.as_deref().unwrap_or("another architecture"),
        engine.architecture
    );
    let hint = format!("set another in fanout.yaml: services: {{{service}: {{image: …}}}}");
    Error::new(Kind::Environment, "image_architecture", message).with_hint(hint)
}

async fn remove_container(
    engine: &Engine,
    found: &Container,
    report: &impl Fn(&str),
) -> Result<(), Error> {
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
) -> Result<(), Error> {
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
) -> Result<(), Error> {
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
