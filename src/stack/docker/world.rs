//! What of a project is there already, and whether something else is in its
//! place. Looks and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    owner::{Foreign, Owner},
    recipe::Recipe,
};
use crate::{
    clients::docker::{Container, DockerError, Engine},
    failure::{Failure, Kind},
};

/// The engine, and what it has of a project.
#[derive(Debug, Clone)]
pub struct World {
    pub engine: Engine,
    /// By service, running or not.
    pub containers: BTreeMap<String, Container>,
    /// Volumes that are there.
    pub volumes: BTreeSet<String>,
    /// Images of services that are not there.
    pub missing_images: BTreeSet<String>,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("the container engine does not say what is there")]
    Docker(#[from] DockerError),
}

impl Failure for WorldError {
    fn kind(&self) -> Kind {
        match self {
            Self::Foreign(error) => error.kind(),
            Self::Docker(_) => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Foreign(error) => error.code(),
            Self::Docker(_) => "docker_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign(error) => error.hint(),
            Self::Docker(_) => Some("docker info".to_owned()),
        }
    }
}

impl World {
    /// Looks for the containers of these services.
    ///
    /// # Errors
    /// When one of their names is another's, or the engine does not answer.
    pub async fn look<'a>(
        engine: Engine,
        owner: &Owner,
        services: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, WorldError> {
        let mut containers = BTreeMap::new();
        for service in services {
            if let Some(found) = engine.container(&owner.container(service)).await? {
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

    /// Looks for what these recipes need besides.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn look_for<'a>(
        &mut self,
        owner: &Owner,
        recipes: impl IntoIterator<Item = &'a Recipe>,
    ) -> Result<(), WorldError> {
        let network = owner.network();
        if let Some(found) = self.engine.network(&network).await? {
            owner.check("network", &network, &found.labels)?;
        }
        for recipe in recipes {
            for name in recipe.volumes.keys() {
                if let Some(found) = self.engine.volume(name).await? {
                    owner.check("volume", name, &found.labels)?;
                    self.volumes.insert(name.clone());
                }
            }
            let image = &recipe.container.image;
            if self.engine.image(image).await?.is_none() {
                self.missing_images.insert(image.clone());
            }
        }
        Ok(())
    }

    /// The container of a service that runs.
    #[must_use]
    pub fn running(&self, service: &str) -> Option<&Container> {
        let found = self.containers.get(service);
        found.filter(|container| container.is_running())
    }

    /// Ports of this machine that the project's own containers hold.
    #[must_use]
    pub fn own_ports(&self) -> BTreeSet<u16> {
        let running = self.containers.values().filter(|one| one.is_running());
        running.flat_map(|one| one.ports.iter().copied()).collect()
    }
}
