//! The resources of a project in the container engine, found by their labels,
//! and their removal.

use std::time::Duration;

use super::{
    engine::{DockerError, Engine},
    labels::{self, ResourceLabels},
};
use crate::{
    progress::{Event, Progress},
    stack::native::process::StopOutcome,
};

/// Containers, networks and volumes of one project, with their engine.
#[derive(Debug, Clone)]
pub struct ProjectResources {
    engine: Engine,
    pub containers: Vec<ProjectContainer>,
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
}

/// A container of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectContainer {
    pub name: String,
    pub service: String,
    pub running: bool,
}

impl ProjectResources {
    /// Finds the resources of a project.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn find(engine: Engine, owner: &ResourceLabels) -> Result<Self, DockerError> {
        let filter = owner.filter();
        let mut containers = Vec::new();
        for name in engine.containers(&filter).await? {
            let Some(found) = engine.container(&name).await? else {
                continue;
            };
            if owner.check("container", &name, &found.labels).is_ok() {
                containers.push(ProjectContainer {
                    service: labels::service(&found.labels).to_owned(),
                    running: found.is_running(),
                    name,
                });
            }
        }
        let names = |resources: Vec<super::engine::Resource>| {
            let mut names: Vec<String> = resources
                .into_iter()
                .map(|resource| resource.name)
                .collect();
            names.sort();
            names
        };
        Ok(Self {
            containers,
            networks: names(engine.networks(&filter).await?),
            volumes: names(engine.volumes(&filter).await?),
            engine,
        })
    }

    /// Returns whether one of the service's containers is running.
    #[must_use]
    pub fn is_running(&self, service: &str) -> bool {
        self.of_service(service).any(|found| found.running)
    }

    fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a ProjectContainer> {
        let all = self.containers.iter();
        all.filter(move |found| found.service == service)
    }

    /// Stops and removes a service's containers. Their data is in volumes.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn stop(
        &self,
        service: &str,
        timeout: Duration,
        progress: &dyn Progress,
    ) -> Result<StopOutcome, DockerError> {
        let mut ended = StopOutcome::NotRunning;
        for found in self.of_service(service) {
            if found.running {
                progress.report(Event::Doing {
                    task: service,
                    what: "stopping",
                });
                let killed = self.engine.stop(&found.name, timeout).await?;
                ended = if killed {
                    StopOutcome::Killed
                } else {
                    StopOutcome::Stopped
                };
            }
            self.engine.remove(&found.name).await?;
        }
        let what = match ended {
            StopOutcome::NotRunning => return Ok(ended),
            StopOutcome::Stopped | StopOutcome::Leftovers(_) => "stopped".to_owned(),
            StopOutcome::Killed => format!("killed: did not exit within {} s", timeout.as_secs()),
        };
        progress.report(Event::Done {
            task: service,
            what: &what,
        });
        Ok(ended)
    }

    /// Removes the remaining containers, and the networks that no other
    /// container uses.
    ///
    /// # Errors
    /// If the engine refuses.
    pub async fn finish(&self) -> Result<(), DockerError> {
        for found in &self.containers {
            self.engine.remove(&found.name).await?;
        }
        for network in &self.networks {
            match self.engine.remove_network(network).await {
                // A foreign container is connected to the network.
                Err(error) if error.status() == Some(403) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes the networks, and the volumes with their data.
    ///
    /// # Errors
    /// If the engine refuses, for instance because a foreign container uses a
    /// volume.
    pub async fn remove(&self) -> Result<(), DockerError> {
        for network in &self.networks {
            self.engine.remove_network(network).await?;
        }
        for volume in &self.volumes {
            self.engine.remove_volume(volume).await?;
        }
        Ok(())
    }
}
