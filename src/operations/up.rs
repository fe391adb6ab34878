//! `up`: brings the stack of a project to what its definitions say, and what
//! has to be in it with it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    connector::{self, Applied, ConnectorError},
    objects::{self, ObjectsError},
    status,
};
use crate::{
    config::{Config, Runtime},
    failure::{Failure, Kind},
    pipeline::status::{Halt, SinkState, SinkStatus},
    plan::{Action, Plan, Step},
    progress::{Event, Progress, Silent},
    secret::masked_url,
    stack::{
        Lock, LockError, Site, StateError,
        blueprint::{self, Blueprint, BlueprintError, Wishes},
        native::{
            install::{self, InstallError},
            prepare::{self, PrepareError},
            process,
        },
        ports::{self, Moved},
        preflight::{self, PreflightError},
        runner::{self, RunnerError},
    },
    template::Values,
};

/// A halted sink looks again within this.
const HALT_PATIENCE: Duration = Duration::from_secs(15);

/// What may be downloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// What is not there. Versions are pinned, so there is nothing newer.
    #[default]
    Missing,
    /// What is there too: it may have been damaged.
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
}

/// An `up` that knows what it will do and holds the project for it.
#[derive(Debug)]
pub struct Up {
    site: Site,
    request: Request,
    blueprint: Blueprint,
    _lock: Option<Lock>,
}

/// What `up` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether anything is other than before.
    pub changed: bool,
    #[serde(flatten)]
    pub plan: Plan,
    pub services: Vec<Endpoint>,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub name: String,
    pub runtime: Runtime,
    /// Without its password.
    pub url: String,
    pub pid: Option<i32>,
    pub about: String,
}

/// Why the stack is not up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Blueprint(#[from] BlueprintError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("sink {sink} halted: {}", halt.reason)]
    Halted { sink: String, halt: Halt },
    #[error("the pipeline was not past its start within {seconds} s: {what}")]
    SinkNotReady { what: String, seconds: u64 },
}

impl UpError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::Halted { .. } | Self::SinkNotReady { .. } => return None,
            Self::Lock(error) => error,
            Self::Blueprint(error) => error,
            Self::Preflight(error) => error,
            Self::State(error) => error,
            Self::Prepare(error) => error,
            Self::Install(error) => error,
            Self::Runner(error) => error,
            Self::Objects(error) => error,
            Self::Connector(error) => error,
        })
    }
}

impl Failure for UpError {
    fn kind(&self) -> Kind {
        match self {
            Self::SinkNotReady { .. } => Kind::NotReady,
            _ => self.inner().map_or(Kind::Failed, Failure::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::SinkNotReady { .. } => "sink_not_ready",
            _ => self.inner().map_or("sink_halted", Failure::code),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Halted { halt, .. } => Some(halt.remedy.clone()),
            Self::SinkNotReady { .. } => Some("fanout logs pipeline".to_owned()),
            _ => self.inner().and_then(Failure::hint),
        }
    }
}

/// The plan alone: nothing is locked, checked or changed.
///
/// # Errors
/// When the wishes or the configuration are wrong.
pub fn dry_run(site: Site, config: &Config, request: Request) -> Result<Up, UpError> {
    let blueprint = blueprint::draw(&site, config, &request.wishes)?;
    Ok(Up {
        site,
        request,
        blueprint,
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
    // Until the ports are on record, no other project chooses any.
    let _home = Lock::home(&site.home).await?;
    let blueprint = blueprint::draw(&site, config, &request.wishes)?;
    preflight::check(&site, &blueprint)?;
    prepare::project_folders(&site.dir())?;
    // Before the first process: whatever happens now, the others find it.
    blueprint.state.save(&site.dir())?;
    Ok(Up {
        site,
        request,
        blueprint,
        _lock: Some(lock),
    })
}

impl Up {
    /// What it will do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.blueprint.plan
    }

    /// The ports of what will be started that are not the usual ones.
    #[must_use]
    pub fn moved(&self) -> Vec<Moved> {
        let ports = self.blueprint.to_start().flat_map(|(service, _)| {
            let usual = service.definition.ports.iter();
            usual.filter_map(|(name, usual)| {
                let port = *service.ports.get(name)?;
                (port != *usual).then(|| Moved {
                    service: service.definition.name.clone(),
                    usual: *usual,
                    port,
                    held: ports::look(*usual) == ports::Look::Held,
                    holder: ports::holder(*usual),
                })
            })
        });
        ports.collect()
    }

    /// What will be downloaded first.
    #[must_use]
    pub fn downloads(&self) -> Vec<&str> {
        let missing = self.blueprint.missing_installs(&self.site);
        missing.into_iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Does it.
    ///
    /// # Errors
    /// At the first service that cannot be brought up; those that are up stay
    /// so, and another `up` goes on from there.
    pub async fn apply(&self, progress: &dyn Progress) -> Result<Report, UpError> {
        self.install(progress).await?;
        let mut changed = !self.plan().is_empty();
        for level in self.levels() {
            let brought = level.into_iter().map(|step| self.bring_up(step, progress));
            let results = try_join_all(brought).await?;
            changed |= results.into_iter().any(|changed| changed);
        }
        Ok(self.report(changed))
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
    /// says whether what it holds is other than before.
    async fn bring_up(&self, step: &Step, progress: &dyn Progress) -> Result<bool, UpError> {
        let Some(service) = self.blueprint.service(&step.service) else {
            return Ok(false);
        };
        let timeout = self.request.timeout;
        let begun = Instant::now();
        match self.blueprint.recipes.get(&step.service) {
            Some(recipe) if step.action != Action::Keep => {
                runner::start(&self.site, service, recipe, timeout, progress).await?;
            }
            _ => {
                runner::confirm(&self.site, service, timeout, progress).await?;
                // What it holds is looked after too, without a word.
                return self.furnish(&step.service, &Silent).await;
            }
        }
        let changed = self.furnish(&step.service, progress).await?;
        let what = format!("ready after {:.1} s", begun.elapsed().as_secs_f64());
        progress.report(Event::Done {
            task: &step.service,
            what: &what,
        });
        Ok(changed)
    }

    /// Makes what a service has to hold before others use it.
    async fn furnish(&self, service: &str, progress: &dyn Progress) -> Result<bool, UpError> {
        let doing = |what| {
            progress.report(Event::Doing {
                task: service,
                what,
            });
        };
        let settings = &self.blueprint.settings;
        let timeout = self.request.timeout;
        match service {
            "postgres" => {
                doing("making its tables and publication");
                objects::in_time("postgres", timeout, objects::postgres(settings)).await?;
            }
            "clickhouse" => {
                doing("making its tables");
                objects::in_time("clickhouse", timeout, objects::clickhouse(settings)).await?;
            }
            "connect" => {
                let overrides = self.connector_overrides();
                let applied = connector::apply(settings, &overrides, timeout, progress).await?;
                return Ok(applied != Applied::Unchanged);
            }
            "pipeline" => self.see_sinks(progress).await?,
            _ => {}
        }
        Ok(false)
    }

    /// Waits until every sink is past its start. One that halts is given the
    /// time to look again: what halted it may just have been mended.
    async fn see_sinks(&self, progress: &dyn Progress) -> Result<(), UpError> {
        let url = &self.blueprint.settings.http.url;
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let (what, halt) = match status::pipeline(url).await {
                Ok(status) => {
                    let waits = |sink: &SinkStatus| {
                        matches!(sink.state, SinkState::Starting | SinkState::Halted)
                    };
                    let Some(sink) = status.sinks.into_iter().find(waits) else {
                        return Ok(());
                    };
                    let detail = sink.detail.as_deref().unwrap_or("starting");
                    let what = format!("sink {}: {detail}", sink.name);
                    (what, sink.halt.map(|halt| (sink.name, halt)))
                }
                // What says nothing of its sinks is not past its start.
                Err(problem) => (problem, None),
            };
            if let Some((sink, halt)) = halt
                && begun.elapsed() >= HALT_PATIENCE
            {
                return Err(UpError::Halted { sink, halt });
            }
            if begun.elapsed() >= self.request.timeout {
                return Err(UpError::SinkNotReady {
                    what,
                    seconds: self.request.timeout.as_secs(),
                });
            }
            if told != what {
                let task = "pipeline";
                progress.report(Event::Doing { task, what: &what });
                told = what;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// A Connect of ours reads the password from a file of its own, so that
    /// REST shows a reference instead.
    fn connector_overrides(&self) -> Values {
        if !self.blueprint.recipes.contains_key("connect") {
            return Values::new();
        }
        let secrets = self.site.dir().conf("connect").join("secrets.properties");
        let reference = format!("${{file:{}:postgres_password}}", secrets.display());
        Values::from([("postgres.password".to_owned(), reference)])
    }

    /// Where everything is.
    #[must_use]
    pub fn report(&self, changed: bool) -> Report {
        let dir = self.site.dir();
        let endpoint = |service: &crate::stack::Service| Endpoint {
            name: service.definition.name.clone(),
            runtime: service.runtime,
            url: masked_url(&service.endpoint),
            pid: process::running(&dir, &service.definition.name).map(|record| record.process.pid),
            about: service.definition.about.clone(),
        };
        Report {
            changed,
            plan: self.plan().clone(),
            services: self.blueprint.services.iter().map(endpoint).collect(),
        }
    }
}
