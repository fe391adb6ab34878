//! `reset`: removes all that a project owns, after saying what that is. Killed
//! at any step, it is run again and finishes what it had set out to remove.

pub(crate) mod external;
mod journal;

use std::{fs, io, path::PathBuf, time::Duration};

use serde::Serialize;

pub use external::{ExternalError, Owned};
pub(super) use external::{topics_of, topics_of_connect};
pub use journal::is_unfinished;

use super::down;
use crate::{
    config::{Config, Runtime},
    connections::Connections,
    crash,
    failure::{Error, Failure, Kind},
    progress::{Event, Progress},
    stack::{
        Lock, Site, State, StateError, docker::resources::ProjectResources, native::process,
        selection,
    },
};

/// Name of the task under which progress is told.
const TASK: &str = "reset";

/// All that the project owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Services whose processes are stopped.
    pub running: Vec<String>,
    pub containers: Vec<String>,
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
    /// The project's folder, where there is one.
    pub folder: Option<PathBuf>,
    pub folder_bytes: u64,
    /// What of fanout's own is in servers that are not its own.
    pub external: Vec<Owned>,
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Stack(#[from] Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    External(#[from] ExternalError),
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
    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let engine = [&self.containers, &self.networks, &self.volumes];
        self.running.is_empty()
            && engine.iter().all(|names| names.is_empty())
            && self.folder.is_none()
            && self.external.is_empty()
    }
}

/// A `reset` that knows what it will remove and holds the project for it.
#[derive(Debug)]
pub struct Reset {
    site: Site,
    connections: Connections,
    inventory: Inventory,
    /// What the engine has of it.
    sweep: Option<ProjectResources>,
    _lock: Option<Lock>,
}

/// Holds the project, where there is one, and lists all that it owns.
///
/// # Errors
/// When another process changes the project, or an external server does not
/// answer.
pub async fn prepare(site: Site, config: &Config) -> Result<Reset, ResetError> {
    let dir = site.dir();
    // A lock would make the folder of a project that never was.
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

/// Lists all that the project owns. External servers are asked.
///
/// # Errors
/// When an external server does not answer.
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
        external: journal::merge(
            external::owned(site, connections, &external_services(site, config)?).await?,
            journal::load(&dir),
        ),
    })
}

/// The services that are not fanout's: by configuration, or as recorded.
fn external_services(site: &Site, config: &Config) -> Result<Vec<String>, ResetError> {
    let recorded = match State::load(&site.dir()) {
        // A state that nobody can read is one more thing to remove.
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

/// Bytes below a folder, as far as they can be seen.
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
    /// What it will remove.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Removes all of it: first what asks servers of ours to be up, then the
    /// processes, then the rest.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn apply(
        &self,
        timeout: Duration,
        progress: &dyn Progress,
    ) -> Result<(), ResetError> {
        let (connections, external) = (&self.connections, &self.inventory.external);
        let dir = self.site.dir();
        journal::save(&dir, external).map_err(|source| ResetError::Journal {
            path: dir.path().to_owned(),
            source,
        })?;
        crash::point("reset", "listed");
        external::remove_connector(connections, external, timeout, progress).await?;
        crash::point("reset", "connector_removed");
        let mut stopped = down::Report::new(&self.site);
        let sweep = self.sweep.as_ref();
        down::stop_all(&self.site, sweep, timeout, &mut stopped, progress).await?;
        crash::point("reset", "stopped");
        external::remove(connections, external, progress).await?;
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
        // State and journal go last: until then another `reset` knows all of
        // this.
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
