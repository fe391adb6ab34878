//! `up`: brings the stack of a project to what its definitions say, and what
//! has to be in it with it.

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

/// What may be downloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// What is not there. Versions are pinned, so there is nothing newer.
    #[default]
    Missing,
    /// What is there too: it may have been damaged, or a tag moved.
    Always,
    /// Nothing.
    Never,
}

/// What is asked of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub options: UpOptions,
    /// How long a service may take from its start until it serves.
    pub timeout: Duration,
    pub pull: Pull,
    /// What may be done to servers that are not fanout's own, and what else
    /// wants to be agreed to.
    pub consent: Consent,
    /// The command that asks for this: a hint repeats it.
    pub typed: String,
}

/// An `up` that knows what it will do and holds the project for it.
#[derive(Debug)]
pub struct Up {
    site: Site,
    request: Request,
    blueprint: Blueprint,
    /// To the servers as the blueprint places them.
    connections: Connections,
    /// Dropped before the lock is.
    record: Record,
    _lock: Option<Lock>,
}

/// What `up` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether anything is other than before.
    pub changed: bool,
    /// What was made, or repaired, in servers that ran already.
    pub altered: Vec<Altered>,
    /// What recovers changes that were missed until a repair.
    pub remedy: Option<&'static str>,
    #[serde(flatten)]
    pub plan: Plan,
    pub services: Vec<Endpoint>,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub name: String,
    pub runtime: Runtime,
    pub url: SecretUrl,
    pub pid: Option<i32>,
    /// None for what is no container.
    pub container: Option<String>,
    pub about: String,
}

/// The plan alone: nothing is locked, checked or changed.
///
/// # Errors
/// When the wishes or the configuration are wrong.
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

/// Holds the project, decides what to do, checks that the machine lets us, and
/// records it.
///
/// # Errors
/// When another process changes the project, the wishes or the configuration
/// are wrong, a program is missing, or a port is taken.
pub async fn prepare(site: Site, config: &Config, request: Request) -> Result<Up, UpError> {
    let lock = Lock::project(&site.dir())?;
    if reset::is_unfinished(&site.dir()) {
        return Err(UpError::ResetUnfinished {
            project: site.project.to_string(),
        });
    }
    // Until the ports are on record, no other project chooses any.
    let _home = Lock::home(&site.home).await?;
    let blueprint = blueprint::plan_up(&site, config, &request.options).await?;
    preflight::check(&site, &blueprint).await?;
    prepare::project_folders(&site.dir())?;
    let record = Record::begin(&site.dir());
    // Before the first process: whatever happens now, the others find it.
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
    /// What it will do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.blueprint.plan
    }

    /// Why a new project is run as it is, where nobody has said.
    #[must_use]
    pub fn because(&self) -> Option<&str> {
        self.blueprint.runtime_reason.as_deref()
    }

    /// The ports of what will be started that are not the usual ones.
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

    /// What will be downloaded first.
    #[must_use]
    pub fn downloads(&self) -> Vec<&str> {
        let installs = self.blueprint.missing_installs(&self.site);
        let installs = installs.into_iter().map(|(name, _)| name.as_str());
        installs.chain(self.blueprint.missing_images()).collect()
    }

    /// Where everything is.
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
                .map(|recipe| recipe.container.name.clone()),
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
