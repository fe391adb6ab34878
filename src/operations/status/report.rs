//! The result of `status`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{letters::DeadLetters, services::ServiceStatus, slot::SlotStatus};
use crate::{
    config::Runtime,
    runtime::status::SinkStatus,
    secret::SecretUrl,
    source::{checks::Standing, connector::ConnectorStatus},
};

/// Status of the whole project at one point in time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub project: String,
    /// `None` if the project was never started.
    pub runtime: Option<Runtime>,
    pub services: Vec<ServiceStatus>,
    /// `None` if the connector does not exist or Connect is unreachable.
    pub connector: Option<ConnectorStatus>,
    pub connector_problem: Option<String>,
    pub slot: Option<SlotStatus>,
    pub slot_problem: Option<String>,
    /// State of the source. `None` if Postgres is unreachable.
    pub source: Option<Standing>,
    /// URL at which the pipeline serves its status, however it was started.
    pub pipeline_url: SecretUrl,
    pub pipeline_problem: Option<String>,
    /// Sinks of the local worker. Their lag and dead letters are those of all workers.
    /// The lag is `None` if it is unknown.
    pub sinks: Vec<SinkStatus>,
    /// `None` if Kafka is unreachable.
    pub dead_letters: Option<DeadLetters>,
    /// The first component on the way from Postgres to the sinks that does not work.
    pub stuck: Option<Stuck>,
}

/// A component that does not work, with the reason and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// A service, `connector`, `slot`, `pipeline`, `source`, or a sink.
    pub at: String,
    pub why: String,
    /// The next command to run.
    pub remedy: String,
}

impl Report {
    /// Replaces the lags and dead letters of the local worker with those of all workers.
    pub(super) fn set_totals(&mut self, mut lags: BTreeMap<String, Option<u64>>) {
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
