//! `down`: stops the project's processes and containers, or some of them. A service is stopped
//! before the services that it needs. Stored data is kept.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    failure::Error,
    progress::Progress,
    stack::{
        Lock, Site, State, StateError, choice,
        definition::{Definition, StopSignal},
        docker::{engine::DockerError, labels::ResourceLabels, resources::ProjectResources},
        native::process::{self, LeftoverOutcome, StopOutcome},
        runner, selection,
    },
};

/// Result of `down`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// Services that were running, in the order in which they were stopped.
    pub stopped: Vec<String>,
    /// Stopped services that had to be killed.
    pub killed: Vec<String>,
    /// Running services that need a stopped service.
    pub dependents: Vec<String>,
    /// Folder with the data of native services.
    pub data: PathBuf,
    /// Volumes with the data of containers.
    pub volumes: Vec<String>,
}

/// Returns the error for a request that the container engine did not fulfil.
pub(super) fn refused(error: DockerError) -> Error {
    error.during("the container engine does not do it")
}

impl Report {
    /// Creates a report without stopped services.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            dry_run: false,
            stopped: Vec::new(),
            killed: Vec::new(),
            dependents: Vec::new(),
            data: site.dir().all_data(),
            volumes: Vec::new(),
        }
    }
}

/// Returns what [`down`] would stop.
///
/// # Errors
/// If a service is unknown, the definitions are inconsistent, or the engine does not respond.
pub async fn dry_run(site: &Site, services: &[String]) -> Result<Report, Error> {
    let all = selection::definitions()?;
    let named = selection::named(&all, services)?;
    let sweep = sweep(site).await?;
    let runs = |one: &Definition| runs(site, sweep.as_ref(), &one.name);
    let stopped = named.iter().rev().filter(|one| runs(one));
    let stopped: Vec<String> = stopped.map(|one| one.name.clone()).collect();
    Ok(Report {
        dry_run: true,
        dependents: dependents(site, sweep.as_ref(), &all, &stopped),
        stopped,
        volumes: sweep.map(|sweep| sweep.volumes).unwrap_or_default(),
        ..Report::new(site)
    })
}

fn runs(site: &Site, sweep: Option<&ProjectResources>, service: &str) -> bool {
    process::running(&site.dir(), service).is_some()
        || sweep.is_some_and(|sweep| sweep.is_running(service))
}

/// Returns the running services that are not stopped and need a stopped service.
fn dependents(
    site: &Site,
    sweep: Option<&ProjectResources>,
    all: &[Definition],
    stopped: &[String],
) -> Vec<String> {
    let needs_one = |one: &&Definition| one.needs.iter().any(|need| stopped.contains(need));
    let stays = |one: &&Definition| !stopped.contains(&one.name) && runs(site, sweep, &one.name);
    let dependents = all.iter().filter(needs_one).filter(stays);
    dependents.map(|one| one.name.clone()).collect()
}

/// Finds the project's resources in the container engine. Returns `None` if the project has no
/// engine.
///
/// # Errors
/// If the engine does not respond.
pub async fn sweep(site: &Site) -> Result<Option<ProjectResources>, Error> {
    let recorded = match State::load(&site.dir()) {
        // A malformed state is treated like a missing one.
        Err(StateError::Malformed { .. }) => None,
        other => other?,
    };
    let engine = match (&recorded, choice::engine_of(site, recorded.as_ref()).await?) {
        (_, Some(engine)) => engine,
        (Some(_), None) => return Ok(None),
        // Without a readable state, the engine may still have resources of the project.
        (None, None) => match choice::engine(site, None).await {
            Ok(engine) => engine,
            Err(_) => return Ok(None),
        },
    };
    let found = ProjectResources::find(engine, &ResourceLabels::new(site)).await;
    found.map(Some).map_err(refused)
}

/// Stops these services of the project, or all services if the list is empty. Each service has
/// `timeout` to stop.
///
/// # Errors
/// If a service is unknown, another process is changing the project, a process survives a kill,
/// or the engine does not respond.
pub async fn down(
    site: &Site,
    services: &[String],
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let mut report = Report::new(site);
    let all = selection::definitions()?;
    let named = selection::named(&all, services)?;
    if !site.dir().path().exists() {
        return Ok(report);
    }
    let _lock = Lock::project(&site.dir())?;
    let sweep = sweep(site).await?;
    if services.is_empty() {
        stop_all(site, sweep.as_ref(), timeout, &mut report, progress).await?;
    } else {
        stop_some(site, sweep.as_ref(), named, timeout, &mut report, progress).await?;
        report.dependents = dependents(site, sweep.as_ref(), &all, &report.stopped);
    }
    report.volumes = sweep.map(|sweep| sweep.volumes).unwrap_or_default();
    Ok(report)
}

/// Stops all services of a project that the caller has locked.
///
/// # Errors
/// As [`down`].
pub async fn stop_all(
    site: &Site,
    sweep: Option<&ProjectResources>,
    timeout: Duration,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let all = selection::definitions()?;
    stop_some(site, sweep, all, timeout, report, progress).await?;
    if let Some(sweep) = sweep {
        sweep.finish().await.map_err(refused)?;
    }
    Ok(())
}

async fn stop_some(
    site: &Site,
    sweep: Option<&ProjectResources>,
    mut left: Vec<Definition>,
    timeout: Duration,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<(), Error> {
    while !left.is_empty() {
        // Services that no remaining service needs can be stopped.
        let needed = |one: &Definition| left.iter().any(|other| other.needs.contains(&one.name));
        let (go, stay): (Vec<Definition>, Vec<Definition>) =
            left.iter().cloned().partition(|one| !needed(one));
        let stops = go
            .iter()
            .map(|one| stop(site, sweep, one, timeout, progress));
        for (service, ended) in go.iter().zip(join_all(stops).await) {
            match ended? {
                StopOutcome::NotRunning => continue,
                StopOutcome::Stopped | StopOutcome::Leftovers(LeftoverOutcome::Stopped) => {}
                StopOutcome::Killed | StopOutcome::Leftovers(LeftoverOutcome::Killed) => {
                    report.killed.push(service.name.clone());
                }
            }
            report.stopped.push(service.name.clone());
        }
        left = stay;
    }
    Ok(())
}

/// Stops one service, native or in a container.
async fn stop(
    site: &Site,
    sweep: Option<&ProjectResources>,
    one: &Definition,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<StopOutcome, Error> {
    let ended = runner::stop(site, &one.name, stop_signal(one), timeout, progress).await?;
    match sweep {
        Some(sweep) if ended == StopOutcome::NotRunning => sweep
            .stop(&one.name, timeout, progress)
            .await
            .map_err(refused),
        _ => Ok(ended),
    }
}

/// Returns the stop signal, which is the same for all native variants of a service.
fn stop_signal(definition: &Definition) -> StopSignal {
    definition
        .native
        .first()
        .map(|way| way.stop)
        .unwrap_or_default()
}
