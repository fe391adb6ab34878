//! `status`: the state of every component, from Postgres to the sinks, and the first
//! one that is stuck. Changes nothing except the stored count of dead letters.
//! Unreachable servers are part of the result.

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
    runtime::{status::Status, worker_status::TIMEOUT},
    source::{
        self,
        checks::Standing,
        connector::{self, ConnectorStatus},
    },
    stack::{ProjectDir, Site, State},
};

/// Returns the current status of the project.
///
/// # Errors
/// If the project's state or the definitions cannot be read. An unreachable server is
/// not an error.
pub async fn status(site: &Site, config: &Config) -> Result<Report, Error> {
    let connections = Connections::of(&config.settings);
    let settings = connections.settings();
    let state = State::load(&site.dir())?;
    // The future is large, so it is boxed.
    let (services, pipeline) = tokio::join!(
        Box::pin(services::all(site, config, state.as_ref())),
        own_pipeline(&connections.pipeline, site.project.as_str()),
    );
    let services = services?;
    // If a project server is not running, another program may use its address.
    let dir = site.dir();
    let (connector, slot, source, kafka) = tokio::join!(
        query(&services, "connect", connector_status(&connections)),
        query(&services, "postgres", slot::status(&connections)),
        source_state(&connections, &services),
        query(
            &services,
            "kafka",
            Box::pin(read_kafka(&connections, &dir, pipeline.as_ref().ok()))
        ),
    );
    let kafka = kafka.unwrap_or_else(|_| KafkaState {
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
        dead_letters: kafka.dead_letters,
        stuck: None,
    };
    report.set_totals(kafka.lags);
    report.stuck = stuck::find(&report);
    Ok(report)
}

/// State of the sinks over all workers, read from Kafka.
struct KafkaState {
    /// Lag by sink, for the sinks whose lag the local worker does not know. `None` if
    /// Kafka does not respond either.
    lags: BTreeMap<String, Option<u64>>,
    dead_letters: Option<DeadLetters>,
}

/// Reads the state from Kafka. Values that time out are omitted.
async fn read_kafka(
    connections: &Connections,
    dir: &ProjectDir,
    pipeline: Option<&Status>,
) -> Result<KafkaState, String> {
    let (lags, dead_letters) = tokio::join!(
        lag::of_all_workers(connections, pipeline),
        timeout(TIMEOUT, letters::count(connections, dir)),
    );
    Ok(KafkaState {
        lags,
        dead_letters: dead_letters.ok().and_then(Result::ok),
    })
}

/// Checks the source, if Postgres is ready.
async fn source_state(connections: &Connections, services: &[ServiceStatus]) -> Option<Standing> {
    let is_ready = |name: &str| {
        let mut matching = services.iter().filter(|service| service.name == name);
        matching.any(|service| service.state == ServiceState::Ready)
    };
    if !is_ready("postgres") {
        return None;
    }
    match source::look(connections, is_ready("kafka")).await {
        Ok(looked) => Some(looked.standing),
        Err(error) => Some(Standing {
            problem: Some(chain(&error)),
            ..Standing::default()
        }),
    }
}

/// Returns the response of a service, or the reason why it was not queried.
async fn query<T>(
    services: &[ServiceStatus],
    name: &str,
    response: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let service = services.iter().find(|service| service.name == name);
    match service.map_or(ServiceState::Absent, |service| service.state) {
        ServiceState::Ready | ServiceState::Unready => response.await,
        ServiceState::Denied => Err(format!("{name} refuses the credentials")),
        ServiceState::Absent => Err(format!("{name} was never started")),
        ServiceState::Unreachable => Err(format!("{name} is unreachable")),
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
    match timeout(TIMEOUT, connector::status(connections)).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no response within {} s", TIMEOUT.as_secs())),
    }
}
