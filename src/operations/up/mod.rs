//! `up`: starts the stack of a project as defined, and provisions the objects in its servers.

mod altered;
mod apply;
mod error;
mod provision;
mod record;
mod review;

use std::time::Duration;

use serde::Serialize;

pub use altered::Altered;
pub use error::UpError;
pub use review::{Alteration, Review, listing};

use self::record::Record;
use super::reset;
use crate::{
    config::{Config, Runtime},
    connections::Connections,
    secret::SecretUrl,
    source::Consent,
    stack::{
        Lock, Service, Site,
        blueprint::{self, Blueprint, UpOptions},
        holder,
        native::{prepare, process},
        plan::Plan,
        ports::{self, Availability, ReassignedPort},
        preflight,
    },
};

/// What to download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// Download what is missing. Versions are pinned, so there is nothing newer.
    #[default]
    Missing,
    /// Download everything, because a download may be damaged or a tag may have moved.
    Always,
    /// Download nothing.
    Never,
}

/// Request of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub options: UpOptions,
    /// How long a service may take to become ready after its start.
    pub timeout: Duration,
    pub pull: Pull,
    /// The operator's consent to changes on external servers and to other changes that require
    /// it.
    pub consent: Consent,
    /// The command line, which hints repeat.
    pub typed: String,
}

/// A planned `up` that has locked the project.
#[derive(Debug)]
pub struct Up {
    site: Site,
    request: Request,
    blueprint: Blueprint,
    /// Connections to the servers at the addresses in the blueprint.
    connections: Connections,
    /// Must be dropped before the lock.
    record: Record,
    _lock: Option<Lock>,
}

/// Result of `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether anything has changed.
    pub changed: bool,
    /// Objects that were created or repaired in servers that were running already.
    pub altered: Vec<Altered>,
    /// Command that recovers changes that were missed before a repair.
    pub remedy: Option<&'static str>,
    #[serde(flatten)]
    pub plan: Plan,
    pub services: Vec<Endpoint>,
}

/// Address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub name: String,
    pub runtime: Runtime,
    pub url: SecretUrl,
    pub pid: Option<i32>,
    /// `None` if the service is not a container.
    pub container: Option<String>,
    pub about: String,
}

/// Plans only: locks, checks and changes nothing.
///
/// # Errors
/// If the options or the configuration are invalid.
pub async fn dry_run(site: Site, config: &Config, request: Request) -> Result<Up, UpError> {
    let blueprint = blueprint::plan_up(&site, config, &request.options).await?;
    Ok(Up {
        site,
        request,
        connections: Connections::of(&blueprint.settings),
        blueprint,
        record: Record::none(),
        _lock: None,
    })
}

/// Locks the project, plans, checks the machine, and records the new state.
///
/// # Errors
/// If another process is changing the project, the options or the configuration are invalid, a
/// program is missing, or a port is taken.
pub async fn prepare(site: Site, config: &Config, request: Request) -> Result<Up, UpError> {
    let lock = Lock::project(&site.dir())?;
    if reset::is_unfinished(&site.dir()) {
        return Err(UpError::ResetUnfinished {
            project: site.project.to_string(),
        });
    }
    // No other project may choose ports until these are recorded.
    let _home = Lock::home(&site.home).await?;
    let blueprint = blueprint::plan_up(&site, config, &request.options).await?;
    preflight::check(&site, &blueprint).await?;
    prepare::project_folders(&site.dir())?;
    let record = Record::begin(&site.dir());
    // Saved before the first process starts, so that every later command finds the processes.
    blueprint.state.save(&site.dir())?;
    Ok(Up {
        site,
        request,
        connections: Connections::of(&blueprint.settings),
        blueprint,
        record,
        _lock: Some(lock),
    })
}

impl Up {
    /// Returns the plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.blueprint.plan
    }

    /// Returns the reason for the runtime of a new project, if the operator has not chosen it.
    #[must_use]
    pub fn because(&self) -> Option<&str> {
        self.blueprint.runtime_reason.as_deref()
    }

    /// Returns the ports of the services to start that differ from the default ports.
    #[must_use]
    pub fn moved(&self) -> Vec<ReassignedPort> {
        let processes = self.blueprint.to_start().map(|(service, _)| service);
        let containers = self.blueprint.containers_to_start();
        let all = processes.chain(containers.map(|(service, _)| service));
        let ports = all.flat_map(|service| {
            let usual = service.definition.ports.iter();
            usual.filter_map(move |(name, usual)| {
                let port = *service.ports.get(name)?;
                (port != *usual).then(|| ReassignedPort {
                    service: service.definition.name.clone(),
                    default_port: *usual,
                    port,
                    is_in_use: ports::availability(*usual) == Availability::InUse,
                    holder: holder(&self.site.home, *usual),
                })
            })
        });
        ports.collect()
    }

    /// Returns the names of what will be downloaded.
    #[must_use]
    pub fn downloads(&self) -> Vec<&str> {
        let installs = self.blueprint.missing_installs(&self.site);
        let installs = installs.into_iter().map(|(name, _)| name.as_str());
        installs.chain(self.blueprint.missing_images()).collect()
    }

    /// Creates a report with the addresses of all services.
    #[must_use]
    pub fn report(&self, changed: bool) -> Report {
        let dir = self.site.dir();
        let endpoint = |service: &Service| Endpoint {
            name: service.definition.name.clone(),
            runtime: service.runtime,
            url: service.endpoint.clone(),
            pid: process::running(&dir, &service.definition.name).map(|record| record.process.pid),
            container: self
                .blueprint
                .containers
                .get(&service.definition.name)
                .map(|spec| spec.container.name.clone()),
            about: service.definition.about.clone(),
        };
        Report {
            changed,
            altered: Vec::new(),
            remedy: None,
            plan: self.plan().clone(),
            services: self.blueprint.services.iter().map(endpoint).collect(),
        }
    }
}
