//! `status`: what is there, from Postgres to the sinks, and where it is stuck.
//! Changes nothing but its own count of dead letters; what cannot be asked is
//! part of the answer.

mod lag;
mod letters;
mod report;
mod services;
mod slot;
mod stuck;

use std::collections::BTreeMap;

use tokio::time::timeout;

pub use crate::runtime::worker_status::{own_pipeline, pipeline};
pub use letters::DeadLetters;
pub use report::{Report, Stuck};
pub use services::{ServiceState, ServiceStatus};
pub use slot::SlotStatus;

use crate::{
    config::Config,
    connections::Connections,
    failure::{Error, chain},
    runtime::{status::Status, worker_status::PATIENCE},
    source::{
        self,
        checks::Standing,
        connector::{self, ConnectorStatus},
    },
    stack::{ProjectDir, Site, State},
};

/// Looks at everything once.
///
/// # Errors
/// When the project's state or the definitions cannot be read; a server that
/// is down is no error.
pub async fn status(site: &Site, config: &Config) -> Result<Report, Error> {
    let connections = Connections::of(&config.settings);
    let settings = connections.settings();
    let state = State::load(&site.dir())?;
    // Many questions at once: on the heap.
    let (services, pipeline) = tokio::join!(
        Box::pin(services::all(site, config, state.as_ref())),
        own_pipeline(&connections.pipeline, site.project.as_str()),
    );
    let services = services?;
    // What listens where a server of ours does not run is somebody else's.
    let dir = site.dir();
    let (connector, slot, source, log) = tokio::join!(
        asked(&services, "connect", connector_status(&connections)),
        asked(&services, "postgres", slot::status(&connections)),
        source_of(&connections, &services),
        asked(
            &services,
            "kafka",
            Box::pin(in_log(&connections, &dir, pipeline.as_ref().ok()))
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
    connections: &Connections,
    dir: &ProjectDir,
    pipeline: Option<&Status>,
) -> Result<InLog, String> {
    let (lags, dead_letters) = tokio::join!(
        lag::of_all_workers(connections, pipeline),
        timeout(PATIENCE, letters::count(connections, dir)),
    );
    Ok(InLog {
        lags,
        dead_letters: dead_letters.ok().and_then(Result::ok),
    })
}

/// Looks at the source, where there is somebody to ask.
async fn source_of(connections: &Connections, services: &[ServiceStatus]) -> Option<Standing> {
    let answers = |name: &str| {
        let mut found = services.iter().filter(|one| one.name == name);
        found.any(|one| one.state == ServiceState::Ready)
    };
    if !answers("postgres") {
        return None;
    }
    match source::look(connections, answers("kafka")).await {
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

fn split<T>(outcome: Result<T, String>) -> (Option<T>, Option<String>) {
    match outcome {
        Ok(value) => (Some(value), None),
        Err(problem) => (None, Some(problem)),
    }
}

async fn connector_status(connections: &Connections) -> Result<Option<ConnectorStatus>, String> {
    match timeout(PATIENCE, connector::status(connections)).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
