//! `down`: stops the project's processes and containers, or some of them, those
//! first that need others, and keeps what they have stored.

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

/// What `down` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// Services that ran, in the order in which they were stopped.
    pub stopped: Vec<String>,
    /// Of those, the ones that had to be killed.
    pub killed: Vec<String>,
    /// Services that still run and need one that was stopped.
    pub dependents: Vec<String>,
    /// Where what they stored is.
    pub data: PathBuf,
    /// Where those in containers stored it.
    pub volumes: Vec<String>,
}

/// Returns the error for a request that the container engine did not fulfil.
pub(super) fn refused(error: DockerError) -> Error {
    error.during("the container engine does not do it")
}

impl Report {
    /// Nothing stopped yet.
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

/// What [`down`] would stop.
///
/// # Errors
/// When there is no service of one of the names, the definitions do not hold
/// together, or the engine does not answer.
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

/// The services that run, are not to be stopped, and need one that is.
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

/// What the engine has of the project, where it has containers.
///
/// # Errors
/// When the engine does not answer.
pub async fn sweep(site: &Site) -> Result<Option<ProjectResources>, Error> {
    let recorded = match State::load(&site.dir()) {
        // A state that nobody can read says nothing of containers.
        Err(StateError::Malformed { .. }) => None,
        other => other?,
    };
    let engine = match (&recorded, choice::engine_of(site, recorded.as_ref()).await?) {
        (_, Some(engine)) => engine,
        (Some(_), None) => return Ok(None),
        // A folder that is gone, or not readable, may have left something.
        (None, None) => match choice::engine(site, None).await {
            Ok(engine) => engine,
            Err(_) => return Ok(None),
        },
    };
    let found = ProjectResources::find(engine, &ResourceLabels::new(site)).await;
    found.map(Some).map_err(refused)
}

/// Stops these services of the project, or all of them where none is named,
/// each within `timeout`.
///
/// # Errors
/// When there is no service of one of the names, another process changes the
/// project, a process survives being killed, or the engine does not answer.
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

/// Stops everything of a project that is held already.
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
        // What nobody that is left needs can go.
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

/// Stops one service, whatever it runs as.
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

/// All ways of one service end by the same signal.
fn stop_signal(definition: &Definition) -> StopSignal {
    definition
        .native
        .first()
        .map(|way| way.stop)
        .unwrap_or_default()
}
