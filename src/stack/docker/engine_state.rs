//! Inspects the existing containers, volumes and images of a project, and
//! checks that their names are not used by something else. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    container_spec::ContainerSpec,
    engine::{Container, DockerError, Engine},
    labels::ResourceLabels,
};
use crate::failure::Error;

/// State of the engine with respect to one project.
#[derive(Debug, Clone)]
pub struct EngineState {
    pub engine: Engine,
    /// Containers by service, running or stopped.
    pub containers: BTreeMap<String, Container>,
    /// Existing volumes.
    pub volumes: BTreeSet<String>,
    /// Missing images of the services.
    pub missing_images: BTreeSet<String>,
}

impl EngineState {
    /// Inspects the containers of these services.
    ///
    /// # Errors
    /// If a container name is used by something else, or the engine does not
    /// respond.
    pub async fn inspect<'a>(
        engine: Engine,
        owner: &ResourceLabels,
        services: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let mut containers = BTreeMap::new();
        for service in services {
            let found = engine.container(&owner.container(service)).await;
            if let Some(found) = found.map_err(DockerError::on_query)? {
                owner.check("container", &found.name, &found.labels)?;
                containers.insert(service.to_owned(), found);
            }
        }
        Ok(Self {
            engine,
            containers,
            volumes: BTreeSet::new(),
            missing_images: BTreeSet::new(),
        })
    }

    /// Inspects the network, the volumes and the images that these specs need.
    ///
    /// # Errors
    /// Same as [`Self::inspect`].
    pub async fn inspect_resources<'a>(
        &mut self,
        owner: &ResourceLabels,
        specs: impl IntoIterator<Item = &'a ContainerSpec>,
    ) -> Result<(), Error> {
        let network = owner.network();
        let found = self.engine.network(&network).await;
        if let Some(found) = found.map_err(DockerError::on_query)? {
            owner.check("network", &network, &found.labels)?;
        }
        for spec in specs {
            for name in spec.volumes.keys() {
                let found = self.engine.volume(name).await;
                if let Some(found) = found.map_err(DockerError::on_query)? {
                    owner.check("volume", name, &found.labels)?;
                    self.volumes.insert(name.clone());
                }
            }
            let image = &spec.container.image;
            let found = self.engine.image(image).await;
            if found.map_err(DockerError::on_query)?.is_none() {
                self.missing_images.insert(image.clone());
            }
        }
        Ok(())
    }

    /// Returns the container of a service, if it is running.
    #[must_use]
    pub fn running(&self, service: &str) -> Option<&Container> {
        let found = self.containers.get(service);
        found.filter(|container| container.is_running())
    }

    /// Returns the ports of this machine that the project's containers publish.
    #[must_use]
    pub fn own_ports(&self) -> BTreeSet<u16> {
        let running = self
            .containers
            .values()
            .filter(|container| container.is_running());
        running
            .flat_map(|container| container.ports.iter().copied())
            .collect()
    }
}
