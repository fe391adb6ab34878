//! `down`: stops the project's processes and containers, those first that need
//! others, and keeps what they have stored.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    clients::docker::DockerError,
    failure::{Failure, Kind},
    progress::Progress,
    stack::{
        Lock, LockError, Site, State, StateError,
        blueprint::BlueprintError,
        choice,
        definition::{Definition, StopSignal},
        docker::{daemon::DaemonError, owner::Owner, sweep::Sweep},
        native::process::{self, Ended, Left, ProcessError},
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
    /// Where what they stored is.
    pub data: PathBuf,
    /// Where those in containers stored it.
    pub volumes: Vec<String>,
}

/// Why something still runs.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Blueprint(#[from] BlueprintError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("the container engine does not do it")]
    Docker(#[from] DockerError),
}

impl DownError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::Lock(error) => error,
            Self::Blueprint(error) => error,
            Self::Process(error) => error,
            Self::State(error) => error,
            Self::Daemon(error) => error,
            Self::Docker(_) => return None,
        })
    }
}

impl Failure for DownError {
    fn kind(&self) -> Kind {
        self.inner().map_or(Kind::Environment, Failure::kind)
    }

    fn code(&self) -> &'static str {
        self.inner().map_or("docker_failed", Failure::code)
    }

    fn hint(&self) -> Option<String> {
        match self.inner() {
            Some(error) => error.hint(),
            None => Some("docker info".to_owned()),
        }
    }
}

impl Report {
    /// Nothing stopped yet.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            dry_run: false,
            stopped: Vec::new(),
            killed: Vec::new(),
            data: site.dir().all_data(),
            volumes: Vec::new(),
        }
    }
}

/// What [`down`] would stop.
///
/// # Errors
/// When the definitions do not hold together or the engine does not answer.
pub async fn dry_run(site: &Site) -> Result<Report, DownError> {
    let dir = site.dir();
    let sweep = sweep(site).await?;
    let runs = |name: &String| {
        process::running(&dir, name).is_some()
            || sweep.as_ref().is_some_and(|sweep| sweep.runs(name))
    };
    let all = selection::definitions()?.into_iter().rev();
    Ok(Report {
        dry_run: true,
        stopped: all.map(|one| one.name).filter(runs).collect(),
        volumes: sweep.map(|sweep| sweep.volumes).unwrap_or_default(),
        ..Report::new(site)
    })
}

/// What the engine has of the project, where it has containers.
///
/// # Errors
/// When the engine does not answer.
pub async fn sweep(site: &Site) -> Result<Option<Sweep>, DownError> {
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
    Ok(Some(Sweep::of(engine, &Owner::of(site)).await?))
}

/// Stops everything of the project, each service within `timeout`.
///
/// # Errors
/// When another process changes the project, a process survives being killed,
/// or the engine does not answer.
pub async fn down(
    site: &Site,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Report, DownError> {
    let mut report = Report::new(site);
    if !site.dir().path().exists() {
        return Ok(report);
    }
    let _lock = Lock::project(&site.dir())?;
    let sweep = sweep(site).await?;
    stop_all(site, sweep.as_ref(), timeout, &mut report, progress).await?;
    report.volumes = sweep.map(|sweep| sweep.volumes).unwrap_or_default();
    Ok(report)
}

/// Stops everything of a project that is held already.
///
/// # Errors
/// As [`down`].
pub async fn stop_all(
    site: &Site,
    sweep: Option<&Sweep>,
    timeout: Duration,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<(), DownError> {
    let mut left = selection::definitions()?;
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
                Ended::WasNot => continue,
                Ended::InOrder | Ended::Leftovers(Left::InOrder) => {}
                Ended::Killed | Ended::Leftovers(Left::Killed) => {
                    report.killed.push(service.name.clone());
                }
            }
            report.stopped.push(service.name.clone());
        }
        left = stay;
    }
    if let Some(sweep) = sweep {
        sweep.finish().await?;
    }
    Ok(())
}

/// Stops one service, whatever it runs as.
async fn stop(
    site: &Site,
    sweep: Option<&Sweep>,
    one: &Definition,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Ended, DownError> {
    let ended = runner::stop(site, &one.name, stop_signal(one), timeout, progress).await?;
    match sweep {
        Some(sweep) if ended == Ended::WasNot => {
            Ok(sweep.stop(&one.name, timeout, progress).await?)
        }
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
