//! What a look at everything has found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{letters::DeadLetters, services::ServiceStatus, slot::SlotStatus};
use crate::{
    config::Runtime,
    runtime::status::SinkStatus,
    secret::SecretUrl,
    source::{checks::Standing, connector::ConnectorStatus},
};

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
    /// Where the pipeline serves its status, no matter who started it.
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

/// The first thing on the way that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// A service, `connector`, `slot`, or a sink.
    pub at: String,
    pub why: String,
    /// The next command to type.
    pub remedy: String,
}

impl Report {
    /// Lays what is known of all workers over what the one that was asked says
    /// of itself.
    pub(super) fn add(&mut self, mut lags: BTreeMap<String, Option<u64>>) {
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
