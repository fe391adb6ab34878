//! `up`: brings the stack of a project to what its definitions say, and what
//! has to be in it with it.

mod error;
mod furnish;
mod record;
mod review;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use serde::Serialize;

pub use error::UpError;
pub use furnish::Altered;
pub use review::{Alteration, Review, listing};

use self::record::Record;
use super::{reset, source::Consent};
use crate::{
    config::{Config, Runtime},
    plan::{Action, Plan, Step},
    progress::{Event, NotesOnly, Progress},
    secret::SecretUrl,
    source::RECONCILE,
    stack::{
        Lock, Site,
        blueprint::{self, Blueprint, Wishes},
        docker::{
            owner::Owner,
            pull::{self, PullError},
            run,
            surroundings::Surroundings,
        },
        holder,
        native::{
            install::{self, InstallError},
            prepare, process,
        },
        ports::{self, Moved},
        preflight, runner,
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
    pub wishes: Wishes,
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
    let blueprint = blueprint::draw(&site, config, &request.wishes).await?;
    Ok(Up {
        site,
        request,
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
    let blueprint = blueprint::draw(&site, config, &request.wishes).await?;
    preflight::check(&site, &blueprint).await?;
    prepare::project_folders(&site.dir())?;
    let record = Record::begin(&site.dir());
    // Before the first process: whatever happens now, the others find it.
    blueprint.state.save(&site.dir())?;
    Ok(Up {
        site,
        request,
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
        self.blueprint.because.as_deref()
    }

    /// The ports of what will be started that are not the usual ones.
    #[must_use]
    pub fn moved(&self) -> Vec<Moved> {
        let processes = self.blueprint.to_start().map(|(service, _)| service);
        let containers = self.blueprint.containers_to_start();
        let all = processes.chain(containers.map(|(service, _)| service));
        let ports = all.flat_map(|service| {
            let usual = service.definition.ports.iter();
            usual.filter_map(move |(name, usual)| {
                let port = *service.ports.get(name)?;
                (port != *usual).then(|| Moved {
                    service: service.definition.name.clone(),
                    usual: *usual,
                    port,
                    held: ports::look(*usual) == ports::Look::Held,
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

    /// Does it.
    ///
    /// # Errors
    /// At the first service that cannot be brought up; those that are up stay
    /// so, and another `up` goes on from there.
    pub async fn apply(&self, progress: &dyn Progress) -> Result<Report, UpError> {
        self.record.keep();
        self.install(progress).await?;
        self.pull(progress).await?;
        if let Some(world) = &self.blueprint.world {
            run::network(&world.engine, &Owner::of(&self.site)).await?;
        }
        let mut changed = !self.plan().is_empty();
        let mut altered = Vec::new();
        for level in self.levels() {
            let brought = level.into_iter().map(|step| self.bring_up(step, progress));
            for (started, found) in try_join_all(brought).await? {
                changed |= started || !found.is_empty();
                altered.extend(found);
            }
        }
        Ok(Report {
            remedy: altered.iter().any(|one| one.recovers).then_some(RECONCILE),
            altered,
            ..self.report(changed)
        })
    }

    async fn install(&self, progress: &dyn Progress) -> Result<(), UpError> {
        for (name, described) in self.blueprint.missing_installs(&self.site) {
            if self.request.pull == Pull::Never {
                return Err(InstallError::Forbidden { name: name.clone() }.into());
            }
            let anew = self.request.pull == Pull::Always;
            install::ensure(&self.site, name, described, anew, progress).await?;
        }
        Ok(())
    }

    /// Fetches the images that are wanted.
    async fn pull(&self, progress: &dyn Progress) -> Result<(), UpError> {
        let Some(world) = &self.blueprint.world else {
            return Ok(());
        };
        let recipes = self.blueprint.containers.values();
        let images: BTreeSet<&str> = match self.request.pull {
            Pull::Always => recipes.map(|one| one.container.image.as_str()).collect(),
            Pull::Missing | Pull::Never => self.blueprint.missing_images(),
        };
        if self.request.pull == Pull::Never
            && let Some(image) = images.first()
        {
            let image = (*image).to_owned();
            return Err(PullError::Forbidden { image }.into());
        }
        let config = Surroundings::from_env().config;
        let pulls = images
            .iter()
            .map(|image| pull::pull(&world.engine, image, &config, progress));
        try_join_all(pulls).await?;
        Ok(())
    }

    /// Whether a container was made of an image that is not the one of its
    /// name any more.
    async fn is_outdated(&self, service: &str) -> bool {
        let (Some(world), Some(recipe)) = (
            &self.blueprint.world,
            self.blueprint.containers.get(service),
        ) else {
            return false;
        };
        if self.request.pull != Pull::Always {
            return false;
        }
        let image = world.engine.image(&recipe.container.image).await;
        let image = image.ok().flatten();
        world.running(service).map(|found| &found.image) != image.as_ref()
    }

    /// Starts one service where the plan says so; says whether it did.
    async fn start(
        &self,
        step: &Step,
        service: &crate::stack::Service,
        progress: &dyn Progress,
    ) -> Result<bool, UpError> {
        let timeout = self.request.timeout;
        let (site, name) = (&self.site, &step.service);
        let starts = step.action != Action::Keep || self.is_outdated(name).await;
        match (
            self.blueprint.recipes.get(name),
            self.blueprint.containers.get(name),
            &self.blueprint.world,
        ) {
            (Some(recipe), ..) if starts => {
                runner::start(site, service, recipe, timeout, progress).await?;
            }
            (_, Some(recipe), Some(world)) if starts => {
                let engine = &world.engine;
                runner::start_container(site, engine, service, recipe, timeout, progress).await?;
            }
            (_, Some(recipe), Some(world)) => {
                let engine = &world.engine;
                runner::confirm_container(site, engine, service, recipe, timeout, progress).await?;
            }
            _ => runner::confirm(site, service, timeout, progress).await?,
        }
        let runs_here = service.runtime != Runtime::External;
        Ok(starts && runs_here)
    }

    /// The plan in groups that do not need each other.
    fn levels(&self) -> Vec<Vec<&Step>> {
        let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
        let mut levels: Vec<Vec<&Step>> = Vec::new();
        for step in &self.plan().steps {
            let needs = self
                .blueprint
                .service(&step.service)
                .map(|service| service.definition.needs.as_slice())
                .unwrap_or_default();
            let below = needs.iter().filter_map(|need| depth.get(need.as_str()));
            let level = below.max().map_or(0, |deepest| deepest + 1);
            depth.insert(&step.service, level);
            levels.resize_with(levels.len().max(level + 1), Vec::new);
            levels[level].push(step);
        }
        levels
    }

    /// Brings one service to where it serves and holds what it has to hold;
    /// says whether it was started, and what it holds that is other than before.
    async fn bring_up(
        &self,
        step: &Step,
        progress: &dyn Progress,
    ) -> Result<(bool, Vec<Altered>), UpError> {
        let Some(service) = self.blueprint.service(&step.service) else {
            return Ok((false, Vec::new()));
        };
        let begun = Instant::now();
        if !self.start(step, service, progress).await? {
            // Its objects are checked too; only notes about them are shown.
            return Ok((false, self.furnish(service, &NotesOnly(progress)).await?));
        }
        let altered = self.furnish(service, progress).await?;
        // That a new server is filled is no news.
        let altered = altered
            .into_iter()
            .filter(|_| step.action != Action::Create);
        let what = format!("ready after {:.1} s", begun.elapsed().as_secs_f64());
        progress.report(Event::Done {
            task: &step.service,
            what: &what,
        });
        Ok((true, altered.collect()))
    }

    /// Where everything is.
    #[must_use]
    pub fn report(&self, changed: bool) -> Report {
        let dir = self.site.dir();
        let endpoint = |service: &crate::stack::Service| Endpoint {
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
