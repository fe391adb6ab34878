//! `status`: what is there, from Postgres to the sinks, and where it is stuck.
//! Changes nothing but its own count of dead letters; what cannot be asked is
//! part of the answer.

mod lag;
mod letters;
mod services;
mod slot;
mod stuck;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::timeout;

pub use letters::DeadLetters;
pub use services::{ServiceState, ServiceStatus};
pub use slot::SlotStatus;
pub use stuck::Stuck;

use super::{
    connector::{self, ConnectorStatus},
    source,
};
use crate::{
    clients::web::{Method, Web},
    config::{Config, Runtime, Settings},
    failure::chain,
    pipeline::status::{SinkStatus, Status},
    secret::SecretUrl,
    source::Standing,
    stack::{ProjectDir, Site, State, blueprint::BlueprintError},
};

/// How long one server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub project: String,
    /// None where the project was never brought up.
    pub runtime: Option<Runtime>,
    pub services: Vec<ServiceStatus>,
    /// None where there is no connector or nobody to ask.
    pub connector: Option<ConnectorStatus>,
    pub connector_problem: Option<String>,
    pub slot: Option<SlotStatus>,
    pub slot_problem: Option<String>,
    /// What is known of the source; none where Postgres does not answer.
    pub source: Option<Standing>,
    /// Where the pipeline serves its own status, whoever started it.
    pub pipeline_url: SecretUrl,
    pub pipeline_problem: Option<String>,
    /// The sinks of the worker that was asked; their lag is of all workers, none
    /// where that is unknown, and so are the dead letters since the beginning.
    pub sinks: Vec<SinkStatus>,
    /// None where Kafka does not answer.
    pub dead_letters: Option<DeadLetters>,
    /// The first thing on the way that does not work.
    pub stuck: Option<Stuck>,
}

/// Looks at everything once.
///
/// # Errors
/// When the project's state or the definitions cannot be read; a server that
/// is down is no error.
pub async fn status(site: &Site, config: &Config) -> Result<Report, BlueprintError> {
    let settings = &config.settings;
    let state = State::load(&site.dir())?;
    // Many questions at once: on the heap.
    let (services, pipeline) = tokio::join!(
        Box::pin(services::all(site, config, state.as_ref())),
        own_pipeline(&settings.http.url, site.project.as_str()),
    );
    let services = services?;
    // What listens where a server of ours does not run is somebody else's.
    let dir = site.dir();
    let (connector, slot, source, log) = tokio::join!(
        asked(&services, "connect", connector_status(settings)),
        asked(&services, "postgres", slot::status(settings)),
        source_of(settings, &services),
        asked(
            &services,
            "kafka",
            Box::pin(in_log(settings, &dir, pipeline.as_ref().ok()))
        ),
    );
    let log = log.unwrap_or_else(|_| InLog {
        lags: lag::unknown(pipeline.as_ref().ok()),
        dead_letters: None,
    });
    let (connector, connector_problem) = split(connector);
    let (slot, slot_problem) = split(slot);
    let (pipeline, pipeline_problem) = split(pipeline);
    let mut report = Report {
        project: site.project.to_string(),
        runtime: state.map(|state| state.runtime),
        source,
        services,
        connector: connector.flatten(),
        connector_problem,
        slot: slot.flatten(),
        slot_problem,
        pipeline_url: settings.http.url.clone(),
        pipeline_problem,
        sinks: pipeline.map(|status| status.sinks).unwrap_or_default(),
        dead_letters: log.dead_letters,
        stuck: None,
    };
    report.add(log.lags);
    report.stuck = stuck::find(&report);
    Ok(report)
}

/// What the log knows of the sinks, of all workers alike.
struct InLog {
    /// Sink → records that no worker has done yet, where the worker that was
    /// asked does not know; none where Kafka does not say either.
    lags: BTreeMap<String, Option<u64>>,
    dead_letters: Option<DeadLetters>,
}

/// Asks Kafka. What it does not say in time is left out.
async fn in_log(
    settings: &Settings,
    dir: &ProjectDir,
    pipeline: Option<&Status>,
) -> Result<InLog, String> {
    let (lags, dead_letters) = tokio::join!(
        lag::of_all_workers(settings, pipeline),
        timeout(PATIENCE, letters::count(settings, dir)),
    );
    Ok(InLog {
        lags,
        dead_letters: dead_letters.ok().and_then(Result::ok),
    })
}

impl Report {
    /// Lays what is known of all workers over what the one that was asked says
    /// of itself.
    fn add(&mut self, mut lags: BTreeMap<String, Option<u64>>) {
        for sink in &mut self.sinks {
            if let Some(lag) = lags.remove(&sink.name) {
                sink.lag = lag;
                sink.lag_is_estimate = lag.is_some_and(|lag| lag > 0);
            }
            if let Some(letters) = &self.dead_letters {
                sink.dead_letters = letters.counts.get(&sink.name).cloned().unwrap_or_default();
            }
        }
    }
}

/// Looks at the source, where there is somebody to ask.
async fn source_of(settings: &Settings, services: &[ServiceStatus]) -> Option<Standing> {
    let answers = |name: &str| {
        let mut found = services.iter().filter(|one| one.name == name);
        found.any(|one| one.state == ServiceState::Ready)
    };
    if !answers("postgres") {
        return None;
    }
    match source::look(settings, answers("kafka")).await {
        Ok(looked) => Some(looked.standing),
        Err(error) => Some(Standing {
            problem: Some(chain(&error)),
            ..Standing::default()
        }),
    }
}

/// The answer of a service, or why it is not asked.
async fn asked<T>(
    services: &[ServiceStatus],
    name: &str,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let state = services.iter().find(|one| one.name == name);
    match state.map_or(ServiceState::Absent, |one| one.state) {
        ServiceState::Ready | ServiceState::Unready => answer.await,
        ServiceState::Denied => Err(format!("{name} refuses the credentials")),
        ServiceState::Absent => Err(format!("{name} was never brought up")),
        ServiceState::Unreachable => Err(format!("{name} does not answer")),
        ServiceState::Died | ServiceState::Stopped => Err(format!("{name} is not running")),
    }
}

/// What the project's own pipeline at `url` says of itself.
///
/// # Errors
/// What went wrong, as one line; also where another project's answers.
pub async fn own_pipeline(url: &SecretUrl, project: &str) -> Result<Status, String> {
    of_project(pipeline(url).await?, project)
}

/// Another project's pipeline may have the port that is the usual one.
fn of_project(pipeline: Status, project: &str) -> Result<Status, String> {
    if pipeline.project == project {
        return Ok(pipeline);
    }
    Err(format!(
        "the pipeline of project {} answers there",
        pipeline.project
    ))
}

fn split<T>(outcome: Result<T, String>) -> (Option<T>, Option<String>) {
    match outcome {
        Ok(value) => (Some(value), None),
        Err(problem) => (None, Some(problem)),
    }
}

async fn connector_status(settings: &Settings) -> Result<Option<ConnectorStatus>, String> {
    match timeout(PATIENCE, connector::status(settings)).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// What the pipeline at `url` says of itself.
///
/// # Errors
/// What went wrong, as one line.
pub async fn pipeline(url: &SecretUrl) -> Result<Status, String> {
    let url = url.join("/status");
    let answer = async {
        let web = Web::new(PATIENCE)?;
        web.send(Method::GET, &url, None).await
    };
    let answer = answer.await.map_err(|error| chain(&error))?;
    if !answer.is_success() {
        return Err(format!("GET {url} answered {}", answer.status));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("GET {url} is no status: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_projects_pipeline_is_not_this_ones() {
        let pipeline = Status {
            format: 1,
            version: String::new(),
            project: "blue".to_owned(),
            pid: 1,
            started_ms: 0,
            source: Standing::default(),
            sinks: Vec::new(),
        };
        assert_eq!(of_project(pipeline.clone(), "blue"), Ok(pipeline.clone()));
        let other = of_project(pipeline, "red");
        let answers = "the pipeline of project blue answers there";
        assert_eq!(other, Err(answers.to_owned()));
    }
}
