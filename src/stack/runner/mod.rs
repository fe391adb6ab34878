//! Starts one service and waits until it is ready.

mod error;
mod wait;

use std::time::Duration;

use self::wait::{Target, wait};
use super::{
    Site,
    docker::{container_spec::ContainerSpec, engine::Engine, labels::ResourceLabels, run},
    native::{
        prepare,
        process::{self, LeftoverOutcome, StopOutcome},
        process_spec::ProcessSpec,
        task::{self, Launch},
    },
    resolve::Service,
};
use crate::{
    config::Runtime,
    failure::Error,
    progress::{Event, Progress},
};

/// How long to wait for a replaced service to exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for an external service, which is expected to be running
/// already.
const EXTERNAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Stops the previous processes of the service, prepares and starts it, and
/// waits until it is ready.
///
/// # Errors
/// If the service cannot be started, exits, or is not ready within `timeout`.
pub async fn start(
    site: &Site,
    service: &Service,
    spec: &ProcessSpec,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let name = &service.definition.name;
    let dir = site.dir();
    let report = |what: &str| progress.report(Event::Doing { task: name, what });
    if process::running(&dir, name).is_some() {
        report("stopping");
    }
    process::stop(&dir, name, spec.way.stop, STOP_TIMEOUT).await?;
    if !spec.data.exists() && !spec.way.prepare.is_empty() {
        report("creating its data");
    }
    let account = prepare::account(&dir, name, spec)?;
    if let Some(account) = &account
        && account.is_owned_by_another(&spec.data)
    {
        report(&format!(
            "changing the owner of its data to {}",
            account.name
        ));
    }
    let preparation = prepare::prepare(site, name, spec, account.as_ref());
    match tokio::time::timeout(timeout, preparation).await {
        Ok(preparation) => preparation?,
        Err(_) => return Err(prepare::timeout_error(name, timeout)),
    }
    let launch = Launch {
        record: Some(dir.record(name)),
        tether: dir.tether(name),
        command: spec.command.clone(),
        env: spec.env.clone(),
        folder: spec.data.clone(),
        umask: task::PRIVATE,
        input: String::new(),
        account,
        fingerprint: spec.fingerprint.clone(),
    };
    let log = spec.log.clone();
    let started = process::start(&dir, name, &site.fanout, &launch, log).await?;
    report(&format!("starting (pid {})", started.process.pid));
    let mut target = Target::Process {
        process: Some(started.process.clone()),
        started: Some(Box::new(started)),
    };
    wait(site, service, &mut target, timeout, progress).await
}

/// Starts the service's container, recreating it if its spec has changed, and
/// waits until the service is ready.
///
/// # Errors
/// Same as [`start`].
pub async fn start_container(
    site: &Site,
    engine: &Engine,
    service: &Service,
    spec: &ContainerSpec,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let name = &service.definition.name;
    let report = |what: &str| progress.report(Event::Doing { task: name, what });
    run::start(engine, &ResourceLabels::new(site), name, spec, report).await?;
    confirm_container(site, engine, service, spec, timeout, progress).await
}

/// Waits until a service in a running container is ready.
///
/// # Errors
/// If the service exits or is not ready within `timeout`.
pub async fn confirm_container(
    site: &Site,
    engine: &Engine,
    service: &Service,
    spec: &ContainerSpec,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut target = Target::Container {
        engine,
        name: spec.container.name.clone(),
        image: spec.container.image.clone(),
    };
    wait(site, service, &mut target, timeout, progress).await
}

/// Waits until an external service or a running process is ready.
///
/// # Errors
/// If the service exits or is not ready within `timeout`.
pub async fn confirm(
    site: &Site,
    service: &Service,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let process = process::running(&site.dir(), &service.definition.name);
    let mut target = Target::Process {
        process: process.map(|record| record.process),
        started: None,
    };
    let timeout = match service.runtime {
        Runtime::External => timeout.min(EXTERNAL_TIMEOUT),
        _ => timeout,
    };
    wait(site, service, &mut target, timeout, progress).await
}

/// Stops a service.
///
/// # Errors
/// If one of its processes survives being killed.
pub async fn stop(
    site: &Site,
    service: &str,
    signal: super::definition::StopSignal,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<StopOutcome, Error> {
    let dir = site.dir();
    if process::running(&dir, service).is_some() {
        progress.report(Event::Doing {
            task: service,
            what: "stopping",
        });
    }
    let outcome = process::stop(&dir, service, signal, timeout).await?;
    let what = match outcome {
        StopOutcome::NotRunning => return Ok(outcome),
        StopOutcome::Stopped => "stopped".to_owned(),
        StopOutcome::Killed => format!("killed: did not exit within {} s", timeout.as_secs()),
        StopOutcome::Leftovers(LeftoverOutcome::Stopped) => {
            "stopped processes of an earlier run".to_owned()
        }
        StopOutcome::Leftovers(LeftoverOutcome::Killed) => format!(
            "killed processes of an earlier run, which did not exit within {} s",
            process::LEFTOVER_TIMEOUT.as_secs()
        ),
    };
    progress.report(Event::Done {
        task: service,
        what: &what,
    });
    Ok(outcome)
}
