//! Brings one service up, until it serves.

mod error;
mod wait;

use std::time::Duration;

pub use error::RunnerError;

use self::wait::{Life, wait};
use super::{
    Site,
    docker::{owner::Owner, recipe::Recipe as ContainerRecipe, run},
    native::{
        prepare::{self, PrepareError},
        process::{self, Ended, Left, ProcessError},
        recipe::Recipe,
        task::{self, Launch},
    },
    resolve::Service,
};
use crate::{
    clients::docker::Engine,
    config::Runtime,
    progress::{Event, Progress},
};

/// How long a service that is replaced may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// An external service is either there or it is not.
const EXTERNAL_PATIENCE: Duration = Duration::from_secs(10);

/// Stops what is left of the service, prepares and starts it, and waits until
/// it serves.
///
/// # Errors
/// When it cannot be started, ends, or is not ready `timeout` after its start.
pub async fn start(
    site: &Site,
    service: &Service,
    recipe: &Recipe,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let name = &service.definition.name;
    let dir = site.dir();
    let doing = |what: &str| progress.report(Event::Doing { task: name, what });
    if process::running(&dir, name).is_some() {
        doing("stopping");
    }
    process::stop(&dir, name, recipe.way.stop, STOP_PATIENCE).await?;
    if !recipe.data.exists() && !recipe.way.prepare.is_empty() {
        doing("making its data");
    }
    let account = prepare::account(&dir, name, recipe)?;
    if let Some(account) = &account
        && account.lacks(&recipe.data)
    {
        doing(&format!("giving its data to user {}", account.name));
    }
    let prepared = prepare::prepare(site, name, recipe, account.as_ref());
    match tokio::time::timeout(timeout, prepared).await {
        Ok(prepared) => prepared?,
        Err(_) => {
            return Err(RunnerError::Prepare(PrepareError::TooLong {
                service: name.clone(),
                seconds: timeout.as_secs(),
            }));
        }
    }
    let launch = Launch {
        record: Some(dir.record(name)),
        tether: dir.tether(name),
        command: recipe.command.clone(),
        env: recipe.env.clone(),
        folder: recipe.data.clone(),
        umask: task::PRIVATE,
        input: String::new(),
        account,
        fingerprint: recipe.fingerprint.clone(),
    };
    let log = recipe.log.clone();
    let started = process::start(&dir, name, &site.fanout, &launch, log).await?;
    doing(&format!("starting (pid {})", started.process.pid));
    let mut life = Life::Process {
        process: Some(started.process.clone()),
        started: Some(Box::new(started)),
    };
    wait(site, service, &mut life, timeout, progress).await
}

/// Makes the service's container what its recipe says, starts it, and waits
/// until it serves.
///
/// # Errors
/// As [`start`].
pub async fn start_container(
    site: &Site,
    engine: &Engine,
    service: &Service,
    recipe: &ContainerRecipe,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let name = &service.definition.name;
    let doing = |what: &str| progress.report(Event::Doing { task: name, what });
    run::start(engine, &Owner::of(site), name, recipe, doing).await?;
    confirm_container(site, engine, service, recipe, timeout, progress).await
}

/// Waits until a service whose container runs already serves.
///
/// # Errors
/// When it ends or does not serve within `timeout`.
pub async fn confirm_container(
    site: &Site,
    engine: &Engine,
    service: &Service,
    recipe: &ContainerRecipe,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let mut life = Life::Container {
        engine,
        name: recipe.container.name.clone(),
        image: recipe.container.image.clone(),
    };
    wait(site, service, &mut life, timeout, progress).await
}

/// Waits until a service that runs already, or is external, serves.
///
/// # Errors
/// When it ends or does not serve within `timeout`.
pub async fn confirm(
    site: &Site,
    service: &Service,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let process = process::running(&site.dir(), &service.definition.name);
    let mut life = Life::Process {
        process: process.map(|record| record.process),
        started: None,
    };
    let timeout = match service.runtime {
        Runtime::External => timeout.min(EXTERNAL_PATIENCE),
        _ => timeout,
    };
    wait(site, service, &mut life, timeout, progress).await
}

/// Stops a service.
///
/// # Errors
/// When something of it survives being killed.
pub async fn stop(
    site: &Site,
    service: &str,
    signal: super::definition::StopSignal,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<Ended, ProcessError> {
    let dir = site.dir();
    if process::running(&dir, service).is_some() {
        progress.report(Event::Doing {
            task: service,
            what: "stopping",
        });
    }
    let ended = process::stop(&dir, service, signal, patience).await?;
    let what = match ended {
        Ended::WasNot => return Ok(ended),
        Ended::InOrder => "stopped".to_owned(),
        Ended::Killed => format!("killed: it did not end within {} s", patience.as_secs()),
        Ended::Leftovers(Left::InOrder) => "ended what an earlier run had left".to_owned(),
        Ended::Leftovers(Left::Killed) => format!(
            "killed what an earlier run had left: it did not end within {} s",
            process::LEFT_PATIENCE.as_secs()
        ),
    };
    progress.report(Event::Done {
        task: service,
        what: &what,
    });
    Ok(ended)
}
