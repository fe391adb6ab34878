//! `reset`: lists everything that a project owns, then removes it. A reset that
//! was killed at any step is run again and removes the rest of the same list.

mod external;
mod journal;

use std::{fs, io, path::PathBuf, time::Duration};

use serde::Serialize;

pub use journal::is_unfinished;

use super::down;
use crate::{
    config::{Config, Runtime},
    connections::Connections,
    crash,
    failure::{Error, Failure, Kind},
    progress::{Event, Progress},
    stack::{
        Lock, Site, State, StateError,
        docker::resources::ProjectResources,
        native::process,
        owned::{Object, OwnedError, Removing},
        selection,
    },
};

/// Name of the task whose progress is reported.
const TASK: &str = "reset";

/// Everything that a project owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Services with a running process.
    pub running: Vec<String>,
    pub containers: Vec<String>,
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
    /// The project's folder, if it exists.
    pub folder: Option<PathBuf>,
    pub folder_bytes: u64,
    /// Objects on external servers.
    pub external: Vec<Object>,
}

/// Why something was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Stack(#[from] Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    External(#[from] OwnedError),
    #[error("what is to be removed cannot be kept in {}", path.display())]
    Journal {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be removed", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ResetError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::Remove { .. } | Self::Journal { .. } => return None,
            Self::Stack(error) => error,
            Self::State(error) => error,
            Self::External(error) => error,
        })
    }
}

impl Failure for ResetError {
    fn kind(&self) -> Kind {
        self.inner().map_or(Kind::Environment, Failure::kind)
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Journal { .. } => "state_unreachable",
            _ => self.inner().map_or("folder_not_removed", Failure::code),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Remove { .. } => Some(
                "see who owns it and what holds it, then as its owner: fanout reset".to_owned(),
            ),
            _ => self.inner().and_then(Failure::hint),
        }
    }
}

impl Inventory {
    /// Returns true if there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let engine = [&self.containers, &self.networks, &self.volumes];
        self.running.is_empty()
            && engine.iter().all(|names| names.is_empty())
            && self.folder.is_none()
            && self.external.is_empty()
    }
}

/// A `reset` that has determined what to remove and has locked the project.
#[derive(Debug)]
pub struct Reset {
    site: Site,
    connections: Connections,
    inventory: Inventory,
    /// Its containers, networks and volumes.
    sweep: Option<ProjectResources>,
    _lock: Option<Lock>,
}

/// Locks the project, if it exists, and lists everything that it owns.
///
/// # Errors
/// If another process is changing the project, or an external server does not
/// respond.
pub async fn prepare(site: Site, config: &Config) -> Result<Reset, ResetError> {
    let dir = site.dir();
    // Locking a project creates its folder, even if it was never started.
    let mut lock = dir
        .path()
        .exists()
        .then(|| Lock::project(&dir))
        .transpose()?;
    let sweep = down::sweep(&site).await?;
    let connections = Connections::of(&config.settings);
    let mut inventory = listed(&site, config, &connections, sweep.as_ref()).await?;
    if lock.is_none() && !inventory.is_empty() {
        lock = Some(Lock::project(&dir)?);
        inventory.folder = Some(dir.path().to_owned());
    }
    Ok(Reset {
        inventory,
        sweep,
        connections,
        site,
        _lock: lock,
    })
}

/// Lists everything that the project owns, on external servers too.
///
/// # Errors
/// If an external server does not respond.
pub async fn inventory(site: &Site, config: &Config) -> Result<Inventory, ResetError> {
    let sweep = down::sweep(site).await?;
    let connections = Connections::of(&config.settings);
    listed(site, config, &connections, sweep.as_ref()).await
}

async fn listed(
    site: &Site,
    config: &Config,
    connections: &Connections,
    sweep: Option<&ProjectResources>,
) -> Result<Inventory, ResetError> {
    let services = external_services(site, config)?;
    let found = external::objects(&site.project, connections, &services).await?;
    let containers = sweep.iter().flat_map(|sweep| &sweep.containers);
    let names =
        |of: fn(&ProjectResources) -> &Vec<String>| sweep.map(of).cloned().unwrap_or_default();
    let dir = site.dir();
    let running = selection::definitions()?
        .into_iter()
        .rev()
        .map(|one| one.name)
        .filter(|name| process::running(&dir, name).is_some());
    let folder = dir.path().exists().then(|| dir.path().to_owned());
    Ok(Inventory {
        running: running.collect(),
        containers: containers.map(|found| found.name.clone()).collect(),
        networks: names(|sweep| &sweep.networks),
        volumes: names(|sweep| &sweep.volumes),
        folder_bytes: folder.as_deref().map(size).unwrap_or_default(),
        folder,
        external: journal::merge(found, journal::load(&dir)),
    })
}

/// Returns the external services, by the configuration or the recorded state.
fn external_services(site: &Site, config: &Config) -> Result<Vec<String>, ResetError> {
    let recorded = match State::load(&site.dir()) {
        // A malformed state is removed like a valid one.
        Err(StateError::Malformed { .. }) => None,
        other => other?,
    };
    let is_external = |name: &str| {
        let wished = config
            .settings
            .services
            .get(name)
            .and_then(|one| one.runtime);
        let known = recorded.as_ref().and_then(|state| state.services.get(name));
        wished.or(known.map(|known| known.runtime)) == Some(Runtime::External)
    };
    Ok(selection::definitions()?
        .into_iter()
        .map(|one| one.name)
        .filter(|name| is_external(name))
        .collect())
}

/// Returns the size of a folder in bytes, without its unreadable parts.
fn size(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

impl Reset {
    /// Returns everything that it will remove.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Removes everything: first the objects that need servers of the project,
    /// then its processes, then the rest.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub async fn apply(
        &self,
        timeout: Duration,
        progress: &dyn Progress,
    ) -> Result<(), ResetError> {
        let external = &self.inventory.external;
        let removing = Removing {
            connections: &self.connections,
            timeout,
            progress,
        };
        let dir = self.site.dir();
        journal::save(&dir, external).map_err(|source| ResetError::Journal {
            path: dir.path().to_owned(),
            source,
        })?;
        crash::point("reset", "listed");
        external::remove_before_stop(external, removing).await?;
        crash::point("reset", "connector_removed");
        let mut stopped = down::Report::new(&self.site);
        let sweep = self.sweep.as_ref();
        down::stop_all(&self.site, sweep, timeout, &mut stopped, progress).await?;
        crash::point("reset", "stopped");
        external::remove(external, removing).await?;
        crash::point("reset", "objects_removed");
        if let Some(sweep) = sweep {
            progress.report(Event::Doing {
                task: TASK,
                what: "removing volumes",
            });
            sweep.remove().await.map_err(down::refused)?;
        }
        progress.report(Event::Doing {
            task: TASK,
            what: "removing files",
        });
        // The state and the journal are removed last: until then, another
        // `reset` can continue.
        for folder in ["data", "conf", "logs", "run"] {
            remove(dir.path().join(folder))?;
        }
        crash::point("reset", "emptied");
        remove(dir.path().to_owned())?;
        progress.report(Event::Done {
            task: TASK,
            what: "removed",
        });
        Ok(())
    }
}

fn remove(path: PathBuf) -> Result<(), ResetError> {
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ResetError::Remove { path, source })
        }
        _ => Ok(()),
    }
}
