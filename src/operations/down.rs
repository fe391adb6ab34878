//! `down`: stops the project's processes, those first that need others, and
//! keeps what they have stored.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    failure::{Failure, Kind},
    progress::Progress,
    stack::{
        Lock, LockError, Site,
        blueprint::{self, BlueprintError},
        definition::{Definition, StopSignal},
        native::process::{self, Ended, Left, ProcessError},
        runner,
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
}

impl Failure for DownError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lock(error) => error.kind(),
            Self::Blueprint(error) => error.kind(),
            Self::Process(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Lock(error) => error.code(),
            Self::Blueprint(error) => error.code(),
            Self::Process(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Lock(error) => error.hint(),
            Self::Blueprint(error) => error.hint(),
            Self::Process(error) => error.hint(),
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
        }
    }
}

/// What [`down`] would stop.
///
/// # Errors
/// When the definitions do not hold together.
pub fn dry_run(site: &Site) -> Result<Report, DownError> {
    let dir = site.dir();
    let running = blueprint::definitions()?
        .into_iter()
        .rev()
        .map(|one| one.name)
        .filter(|name| process::running(&dir, name).is_some());
    Ok(Report {
        dry_run: true,
        stopped: running.collect(),
        ..Report::new(site)
    })
}

/// Stops everything of the project, each service within `timeout`.
///
/// # Errors
/// When another process changes the project, or a process survives being
/// killed.
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
    stop_all(site, timeout, &mut report, progress).await?;
    Ok(report)
}

/// Stops everything of a project that is held already.
///
/// # Errors
/// As [`down`].
pub async fn stop_all(
    site: &Site,
    timeout: Duration,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<(), DownError> {
    let mut left = blueprint::definitions()?;
    while !left.is_empty() {
        // What nobody that is left needs can go.
        let needed = |one: &Definition| left.iter().any(|other| other.needs.contains(&one.name));
        let (go, stay): (Vec<Definition>, Vec<Definition>) =
            left.iter().cloned().partition(|one| !needed(one));
        let stops = go
            .iter()
            .map(|one| runner::stop(site, &one.name, stop_signal(one), timeout, progress));
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
    Ok(())
}

/// All ways of one service end by the same signal.
fn stop_signal(definition: &Definition) -> StopSignal {
    definition
        .native
        .first()
        .map(|way| way.stop)
        .unwrap_or_default()
}
