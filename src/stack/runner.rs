//! Brings one service up, until it serves.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    Site,
    definition::MAIN_PORT,
    logs::last_lines,
    native::{
        account::AccountError,
        launch::Launch,
        prepare::{self, PrepareError},
        process::{self, Ended, Left, ProcessError, Started, lines},
        recipe::Recipe,
    },
    ports,
    probe::probe,
    proc::{self, Identity},
    resolve::Service,
};
use crate::{
    config::Runtime,
    failure::{Failure, Kind},
    progress::{Event, Progress},
};

/// Between two probes.
const TICK: Duration = Duration::from_millis(150);

/// What the service waits for is told at most this often, and only when it is
/// other than before.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// How long a service that is replaced may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// An external service is either there or it is not.
const EXTERNAL_PATIENCE: Duration = Duration::from_secs(10);

/// How many log lines are evidence.
const EVIDENCE: usize = 15;

/// Why a service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{service} ended before it was ready ({how}){}", lines(log))]
    Died {
        service: String,
        how: String,
        log: Vec<String>,
    },
    #[error("{service} was not ready within {seconds} s: {answer}{}", lines(log))]
    NotInTime {
        service: String,
        seconds: u64,
        answer: String,
        log: Vec<String>,
    },
    #[error("{service} is external, at {url}, and does not answer: {answer}")]
    ExternalDown {
        service: String,
        url: String,
        answer: String,
    },
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

impl Failure for RunnerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Died { .. } => Kind::Failed,
            Self::NotInTime { .. } | Self::ExternalDown { .. } => Kind::NotReady,
            Self::Prepare(error) => error.kind(),
            Self::Process(error) => error.kind(),
            Self::Account(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Died { .. } => "service_died",
            Self::NotInTime { .. } => "service_not_ready",
            Self::ExternalDown { .. } => "external_service_down",
            Self::Prepare(error) => error.code(),
            Self::Process(error) => error.code(),
            Self::Account(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Died { service, .. } | Self::NotInTime { service, .. } => {
                Some(format!("fanout logs {service}"))
            }
            Self::ExternalDown { .. } => Some("fanout config show".to_owned()),
            Self::Prepare(error) => error.hint(),
            Self::Process(error) => error.hint(),
            Self::Account(error) => error.hint(),
        }
    }
}

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
        input: String::new(),
        account,
        fingerprint: recipe.fingerprint.clone(),
    };
    let started = process::start(&dir, name, &site.fanout, &launch).await?;
    doing(&format!("starting (pid {})", started.process.pid));
    let mut life = Life {
        process: Some(started.process.clone()),
        started: Some(started),
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
    let mut life = Life {
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

/// The process that is waited for.
struct Life {
    process: Option<Identity>,
    started: Option<Started>,
}

impl Life {
    /// How it ended, where it has.
    fn ended(&mut self) -> Option<String> {
        if let Some(status) = self.started.as_mut().and_then(Started::ended) {
            return Some(status.to_string());
        }
        let process = self.process.as_ref()?;
        (!process.is_alive()).then(|| format!("pid {} is gone", process.pid))
    }
}

async fn wait(
    site: &Site,
    service: &Service,
    life: &mut Life,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let name = &service.definition.name;
    let evidence = || last_lines(&site.dir().log(name), EVIDENCE);
    let started = Instant::now();
    let mut told = Instant::now();
    let mut last_told = String::new();
    loop {
        let answer = match probe(&service.definition.ready, &service.endpoint).await {
            // Somebody else's server may answer while ours is on its way to
            // find its port taken.
            Ok(()) if life.ended().is_none() && is_its_own(site, service) => return Ok(()),
            Ok(()) => "another server answers in its place".to_owned(),
            Err(answer) => answer,
        };
        if let Some(how) = life.ended() {
            return Err(RunnerError::Died {
                service: name.clone(),
                how,
                log: evidence(),
            });
        }
        if started.elapsed() >= timeout {
            return Err(not_in_time(service, timeout, answer, evidence()));
        }
        if told.elapsed() >= TELL_INTERVAL && last_told != answer {
            told = Instant::now();
            last_told.clone_from(&answer);
            let what = format!("waiting: {answer}");
            progress.report(Event::Doing {
                task: name,
                what: &what,
            });
        }
        sleep(TICK).await;
    }
}

/// Whether what listens on the service's port is of the service.
fn is_its_own(site: &Site, service: &Service) -> bool {
    let own = || proc::holders_of(&site.dir().tether(&service.definition.name));
    let listens = |port: &u16| ports::is_listened_on_by(*port, &own());
    service.ports.get(MAIN_PORT).is_none_or(listens)
}

fn not_in_time(
    service: &Service,
    timeout: Duration,
    answer: String,
    log: Vec<String>,
) -> RunnerError {
    let name = service.definition.name.clone();
    match service.runtime {
        Runtime::External => RunnerError::ExternalDown {
            service: name,
            url: crate::secret::masked_url(&service.endpoint),
            answer,
        },
        _ => RunnerError::NotInTime {
            service: name,
            seconds: timeout.as_secs(),
            answer,
            log,
        },
    }
}
