//! All that the engine has of a project, found by its labels, and how it goes.

use std::time::Duration;

use super::owner::{self, Owner};
use crate::{
    clients::docker::{DockerError, Engine},
    progress::{Event, Progress},
    stack::native::process::Ended,
};

/// The engine and all that it has of one project.
#[derive(Debug, Clone)]
pub struct Sweep {
    engine: Engine,
    pub containers: Vec<Found>,
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub service: String,
    pub running: bool,
}

impl Sweep {
    /// Finds all of it.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn of(engine: Engine, owner: &Owner) -> Result<Self, DockerError> {
        let filter = owner.filter();
        let mut containers = Vec::new();
        for name in engine.containers(&filter).await? {
            let Some(found) = engine.container(&name).await? else {
                continue;
            };
            if owner.check("container", &name, &found.labels).is_ok() {
                containers.push(Found {
                    service: owner::service(&found.labels).to_owned(),
                    running: found.is_running(),
                    name,
                });
            }
        }
        let names = |things: Vec<crate::clients::docker::Thing>| {
            let mut names: Vec<String> = things.into_iter().map(|thing| thing.name).collect();
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

    /// Whether one of the service's containers runs.
    #[must_use]
    pub fn runs(&self, service: &str) -> bool {
        self.of_service(service).any(|found| found.running)
    }

    fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Found> {
        let all = self.containers.iter();
        all.filter(move |found| found.service == service)
    }

    /// Stops a service's containers and takes them away: what they keep is in
    /// volumes.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn stop(
        &self,
        service: &str,
        patience: Duration,
        progress: &dyn Progress,
    ) -> Result<Ended, DockerError> {
        let mut ended = Ended::WasNot;
        for found in self.of_service(service) {
            if found.running {
                progress.report(Event::Doing {
                    task: service,
                    what: "stopping",
                });
                let killed = self.engine.stop(&found.name, patience).await?;
                ended = if killed {
                    Ended::Killed
                } else {
                    Ended::InOrder
                };
            }
            self.engine.remove(&found.name).await?;
        }
        let what = match ended {
            Ended::WasNot => return Ok(ended),
            Ended::InOrder | Ended::Leftovers(_) => "stopped".to_owned(),
            Ended::Killed => format!("killed: it did not end within {} s", patience.as_secs()),
        };
        progress.report(Event::Done {
            task: service,
            what: &what,
        });
        Ok(ended)
    }

    /// Takes away what is left of containers, and the networks that nobody
    /// else uses.
    ///
    /// # Errors
    /// When the engine does not.
    pub async fn finish(&self) -> Result<(), DockerError> {
        for found in &self.containers {
            self.engine.remove(&found.name).await?;
        }
        for network in &self.networks {
            match self.engine.remove_network(network).await {
                // A container of somebody else's is on it.
                Err(error) if error.status() == Some(403) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes the networks, and the volumes with all that is in them.
    ///
    /// # Errors
    /// When the engine does not, for instance because a container of somebody
    /// else's uses one.
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
