//! Waits until a service is ready or has exited, whether it is a process, a
//! container or external.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::error;
use crate::{
    config::Runtime,
    failure::Error,
    progress::{Event, Progress},
    stack::{
        Site,
        definition::MAIN_PORT,
        docker::{
            engine::{self, Engine, ExitReason, Health},
            run,
        },
        logs::last_lines,
        native::{log_writer, process::StartedProcess},
        ports,
        probe::probe,
        proc::{self, Identity},
        resolve::Service,
    },
};

/// Pause between two probes.
const TICK: Duration = Duration::from_millis(150);

/// Minimum interval between two progress reports; only a changed one is
/// reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Number of log lines in an error.
const LOG_LINES: usize = 15;

/// The process or container of the service.
pub(super) enum Target<'a> {
    Process {
        process: Option<Identity>,
        started: Option<Box<StartedProcess>>,
    },
    Container {
        engine: &'a Engine,
        name: String,
        image: String,
    },
}

/// Status of the process or container.
enum Status {
    Ready,
    /// Running but not healthy yet, with the reason.
    NotReady(String),
    Exited(String),
    /// Killed because it ran out of memory, with its container's limit in
    /// bytes.
    OutOfMemory(Option<u64>),
}

impl Target<'_> {
    async fn status(&mut self) -> Status {
        match self {
            Self::Process { process, started } => {
                if let Some(status) = started.as_mut().and_then(|started| started.exit_status()) {
                    return Status::Exited(status.to_string());
                }
                match process {
                    Some(process) if !process.is_alive() => {
                        Status::Exited(format!("pid {} no longer exists", process.pid))
                    }
                    _ => Status::Ready,
                }
            }
            Self::Container { engine, name, .. } => match engine.container(name).await {
                Ok(Some(found)) => container_status(found, engine.checks_health),
                Ok(None) => Status::Exited("its container was removed".to_owned()),
                Err(error) => Status::NotReady(error.to_string()),
            },
        }
    }

    /// Returns whether the service itself listens on its port. A container's
    /// port is held by the engine, so it is not checked.
    fn listens_on_port(&self, site: &Site, service: &Service) -> bool {
        let Self::Process { .. } = self else {
            return true;
        };
        let pids = || proc::holders_of(&site.dir().tether(&service.definition.name));
        let listens_on_port = |port: &u16| ports::is_listened_on_by(*port, &pids());
        service.ports.get(MAIN_PORT).is_none_or(listens_on_port)
    }

    /// Builds the error of a service that exited before it was ready.
    async fn exit_error(&self, site: &Site, service: &str, how: String) -> Error {
        if let Self::Process { .. } = self {
            log_writer::wait_until_written(&site.dir(), service).await;
        }
        let log = self.last_log_lines(site, service).await;
        if let Self::Container { engine, image, .. } = self
            && log.iter().any(|line| run::is_architecture_error(line))
        {
            return run::architecture_error(engine, service, image).await;
        }
        error::died(service, &how, &log)
    }

    async fn out_of_memory_error(&self, site: &Site, service: &str, limit: Option<u64>) -> Error {
        let container = match self {
            Self::Process { .. } => "",
            Self::Container { name, .. } => name.as_str(),
        };
        let log = self.last_log_lines(site, service).await;
        error::out_of_memory(service, container, limit, &log)
    }

    /// Returns the last log lines.
    async fn last_log_lines(&self, site: &Site, service: &str) -> Vec<String> {
        match self {
            Self::Process { .. } => last_lines(&site.dir().log(service), LOG_LINES),
            Self::Container { engine, name, .. } => {
                let lines = engine.log(name, Some(LOG_LINES), None).await;
                let lines = lines.unwrap_or_default().into_iter();
                lines.map(|line| line.text).collect()
            }
        }
    }
}

fn container_status(found: engine::Container, has_health_checks: bool) -> Status {
    match (found.run_state, found.health) {
        (engine::RunState::Exited(ExitReason::OutOfMemory), _) => {
            Status::OutOfMemory(found.memory_limit)
        }
        (engine::RunState::Exited(how), _) => Status::Exited(how.to_string()),
        (engine::RunState::Created, _) => Status::Exited("it was never started".to_owned()),
        (engine::RunState::Running, Health::Healthy) => Status::Ready,
        (engine::RunState::Running, _) if !has_health_checks => Status::Ready,
        (engine::RunState::Running, Health::Starting) => {
            Status::NotReady("its health check has not passed yet".to_owned())
        }
        (engine::RunState::Running, Health::Unhealthy(output)) if output.is_empty() => {
            Status::NotReady("its health check fails".to_owned())
        }
        (engine::RunState::Running, Health::Unhealthy(output)) => {
            Status::NotReady(format!("its health check fails: {output}"))
        }
    }
}

/// Waits until the service responds in its own protocol from this machine, and
/// is healthy.
pub(super) async fn wait(
    site: &Site,
    service: &Service,
    target: &mut Target<'_>,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let name = &service.definition.name;
    let started = Instant::now();
    let mut reported_at = Instant::now();
    let mut last_report = String::new();
    loop {
        let result = probe(&service.definition.ready, &service.endpoint).await;
        let problem = match (result, target.status().await) {
            (_, Status::Exited(how)) => return Err(target.exit_error(site, name, how).await),
            (_, Status::OutOfMemory(limit)) => {
                return Err(target.out_of_memory_error(site, name, limit).await);
            }
            // Another server may respond while the new one is about to find its
            // port in use.
            (Ok(()), Status::Ready) if target.listens_on_port(site, service) => return Ok(()),
            (Ok(()), Status::Ready) => "another server responds on its port".to_owned(),
            (Ok(()), Status::NotReady(why)) => why,
            (Err(error), _) => error.text,
        };
        if started.elapsed() >= timeout {
            let log = target.last_log_lines(site, name).await;
            return Err(timeout_error(service, timeout, &problem, &log));
        }
        if reported_at.elapsed() >= REPORT_INTERVAL && last_report != problem {
            reported_at = Instant::now();
            last_report.clone_from(&problem);
            let what = format!("waiting: {problem}");
            progress.report(Event::Doing {
                task: name,
                what: &what,
            });
        }
        sleep(TICK).await;
    }
}

fn timeout_error(service: &Service, timeout: Duration, problem: &str, log: &[String]) -> Error {
    let name = &service.definition.name;
    match service.runtime {
        Runtime::External => error::external_down(name, &service.endpoint, problem),
        _ => error::timeout(name, timeout, problem, log),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(run_state: engine::RunState, health: Health, checked: bool) -> String {
        let found = engine::Container {
            id: String::new(),
            name: String::new(),
            labels: <_>::default(),
            image: String::new(),
            run_state,
            health,
            ports: Vec::new(),
            memory_limit: Some(6 << 20),
            started_ms: None,
        };
        match container_status(found, checked) {
            Status::Ready => "ready".to_owned(),
            Status::NotReady(why) => format!("not ready: {why}"),
            Status::Exited(how) => format!("exited: {how}"),
            Status::OutOfMemory(limit) => format!("out of memory: {limit:?}"),
        }
    }

    #[test]
    fn waiting_ends_if_the_container_exited_and_continues_if_it_is_unhealthy() {
        let exited = engine::RunState::Exited(ExitReason::Code(1));
        assert_eq!(
            describe(exited, Health::Starting, true),
            "exited: exit code 1"
        );
        let killed = engine::RunState::Exited(ExitReason::OutOfMemory);
        let status = describe(killed, Health::Starting, true);
        assert_eq!(status, "out of memory: Some(6291456)");
        let running = || engine::RunState::Running;
        assert_eq!(describe(running(), Health::Healthy, true), "ready");
        assert_eq!(
            describe(running(), Health::Starting, true),
            "not ready: its health check has not passed yet"
        );
        let unhealthy = Health::Unhealthy("refused".to_owned());
        assert_eq!(
            describe(running(), unhealthy, true),
            "not ready: its health check fails: refused"
        );
        // Podman may never run the health check.
        assert_eq!(describe(running(), Health::Starting, false), "ready");
    }
}
