//! Waits until a service serves, or ends: whatever it is.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::error::RunnerError;
use crate::{
    clients::docker::{self, Ending, Engine, Health},
    config::Runtime,
    progress::{Event, Progress},
    stack::{
        Site,
        definition::MAIN_PORT,
        docker::run,
        logs::last_lines,
        native::{log_writer, process::Started},
        ports,
        probe::probe,
        proc::{self, Identity},
        resolve::Service,
    },
};

/// Between two probes.
const TICK: Duration = Duration::from_millis(150);

/// What the service waits for is told at most this often, and only when it is
/// other than before.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// How many log lines are evidence.
const EVIDENCE: usize = 15;

/// What is waited for.
pub(super) enum Life<'a> {
    Process {
        process: Option<Identity>,
        started: Option<Box<Started>>,
    },
    Container {
        engine: &'a Engine,
        name: String,
        image: String,
    },
}

/// How it is.
enum Look {
    Good,
    /// It runs, and something has to come yet.
    Not(String),
    Ended(String),
    /// Killed for want of memory, with the bytes that its container may have,
    /// where that is limited.
    Starved(Option<u64>),
}

impl Life<'_> {
    async fn look(&mut self) -> Look {
        match self {
            Self::Process { process, started } => {
                if let Some(status) = started.as_mut().and_then(|started| started.ended()) {
                    return Look::Ended(status.to_string());
                }
                match process {
                    Some(process) if !process.is_alive() => {
                        Look::Ended(format!("pid {} is gone", process.pid))
                    }
                    _ => Look::Good,
                }
            }
            Self::Container { engine, name, .. } => match engine.container(name).await {
                Ok(Some(found)) => of_container(found, engine.checks_health),
                Ok(None) => Look::Ended("its container was removed".to_owned()),
                Err(error) => Look::Not(error.to_string()),
            },
        }
    }

    /// Whether what listens on the service's port is of the service; a
    /// container's port is the engine's.
    fn listens(&self, site: &Site, service: &Service) -> bool {
        let Self::Process { .. } = self else {
            return true;
        };
        let own = || proc::holders_of(&site.dir().tether(&service.definition.name));
        let listens = |port: &u16| ports::is_listened_on_by(*port, &own());
        service.ports.get(MAIN_PORT).is_none_or(listens)
    }

    /// Why it ended before it was ready.
    async fn death(&self, site: &Site, service: &str, how: String) -> RunnerError {
        if let Self::Process { .. } = self {
            log_writer::finished(&site.dir(), service).await;
        }
        let log = self.evidence(site, service).await;
        if let Self::Container { engine, image, .. } = self
            && log.iter().any(|line| run::is_about_the_architecture(line))
        {
            return run::other_architecture(engine, service, image).await.into();
        }
        RunnerError::Died {
            service: service.to_owned(),
            how,
            log,
        }
    }

    async fn starvation(&self, site: &Site, service: &str, limit: Option<u64>) -> RunnerError {
        RunnerError::Starved {
            service: service.to_owned(),
            container: match self {
                Self::Process { .. } => String::new(),
                Self::Container { name, .. } => name.clone(),
            },
            limit,
            log: self.evidence(site, service).await,
        }
    }

    /// Its last words.
    async fn evidence(&self, site: &Site, service: &str) -> Vec<String> {
        match self {
            Self::Process { .. } => last_lines(&site.dir().log(service), EVIDENCE),
            Self::Container { engine, name, .. } => {
                let lines = engine.log(name, Some(EVIDENCE), None).await;
                let lines = lines.unwrap_or_default().into_iter();
                lines.map(|line| line.text).collect()
            }
        }
    }
}

fn of_container(found: docker::Container, checked: bool) -> Look {
    match (found.life, found.health) {
        (docker::Life::Ended(Ending::OutOfMemory), _) => Look::Starved(found.memory_limit),
        (docker::Life::Ended(how), _) => Look::Ended(how.to_string()),
        (docker::Life::Created, _) => Look::Ended("it was never started".to_owned()),
        (docker::Life::Running, Health::Good) => Look::Good,
        (docker::Life::Running, _) if !checked => Look::Good,
        (docker::Life::Running, Health::Starting) => {
            Look::Not("its health check has not passed yet".to_owned())
        }
        (docker::Life::Running, Health::Bad(said)) if said.is_empty() => {
            Look::Not("its health check fails".to_owned())
        }
        (docker::Life::Running, Health::Bad(said)) => {
            Look::Not(format!("its health check fails: {said}"))
        }
    }
}

/// Waits until the service answers in its own protocol, from here, and is well.
pub(super) async fn wait(
    site: &Site,
    service: &Service,
    life: &mut Life<'_>,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), RunnerError> {
    let name = &service.definition.name;
    let started = Instant::now();
    let mut told = Instant::now();
    let mut last_told = String::new();
    loop {
        let answer = probe(&service.definition.ready, &service.endpoint).await;
        let answer = match (answer, life.look().await) {
            (_, Look::Ended(how)) => return Err(life.death(site, name, how).await),
            (_, Look::Starved(limit)) => return Err(life.starvation(site, name, limit).await),
            // Somebody else's server may answer while ours is on its way to
            // find its port taken.
            (Ok(()), Look::Good) if life.listens(site, service) => return Ok(()),
            (Ok(()), Look::Good) => "another server answers in its place".to_owned(),
            (Ok(()), Look::Not(why)) => why,
            (Err(said), _) => said.text,
        };
        if started.elapsed() >= timeout {
            let log = life.evidence(site, name).await;
            return Err(not_in_time(service, timeout, answer, log));
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
            url: service.endpoint.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn look(life: docker::Life, health: Health, checked: bool) -> String {
        let found = docker::Container {
            id: String::new(),
            name: String::new(),
            labels: <_>::default(),
            image: String::new(),
            life,
            health,
            ports: Vec::new(),
            memory_limit: Some(6 << 20),
            started_ms: None,
        };
        match of_container(found, checked) {
            Look::Good => "good".to_owned(),
            Look::Not(why) => format!("not: {why}"),
            Look::Ended(how) => format!("ended: {how}"),
            Look::Starved(limit) => format!("starved: {limit:?}"),
        }
    }

    #[test]
    fn a_container_that_ended_is_not_waited_for_and_an_unwell_one_is() {
        let ended = docker::Life::Ended(Ending::Code(1));
        assert_eq!(look(ended, Health::Starting, true), "ended: exit code 1");
        let starved = docker::Life::Ended(Ending::OutOfMemory);
        let said = look(starved, Health::Starting, true);
        assert_eq!(said, "starved: Some(6291456)");
        let running = || docker::Life::Running;
        assert_eq!(look(running(), Health::Good, true), "good");
        assert_eq!(
            look(running(), Health::Starting, true),
            "not: its health check has not passed yet"
        );
        let bad = Health::Bad("refused".to_owned());
        assert_eq!(
            look(running(), bad, true),
            "not: its health check fails: refused"
        );
        // Podman may never ask.
        assert_eq!(look(running(), Health::Starting, false), "good");
    }
}
