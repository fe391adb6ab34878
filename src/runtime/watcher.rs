//! Checks the source periodically while the pipeline runs.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::source::SourceWriter;
use crate::{
    connections::Connections,
    failure::chain,
    source::{
        checks::{
            AlteredColumn, Catalogue, ConnectorState, Finding, Fingerprint, History, Standing,
            altered_columns, assess, reasons_to_record,
        },
        inspector::{InspectError, Inspector},
    },
    time::{
        clock::{now_ms, now_us},
        timestamp::Rfc3339,
    },
};

/// Interval between two checks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The connector and its snapshot notifications are read on every nth check.
const CONNECTOR_CHECK_EVERY: u32 = 5;

/// If the connector streamed on this many consecutive checks and no initial
/// snapshot is known, its snapshot was taken long ago.
const STREAMING_CHECKS: u32 = 5;

/// Checks the source until cancelled, and publishes the results.
pub async fn watch(connections: Connections, writer: SourceWriter, stop: CancellationToken) {
    let inspector = match Inspector::new(&connections) {
        Ok(inspector) => inspector,
        Err(error) => {
            let error = chain(&error);
            tracing::error!(error, "cannot watch the source");
            return;
        }
    };
    let mut watcher = Watcher {
        inspector,
        history: None,
        connector_state: ConnectorState::default(),
        standing: Standing::default(),
        snapshots_known: false,
        streaming_checks: 0,
    };
    for round in 0_u32.. {
        let number = writer.begin();
        let (standing, has_response) = tokio::select! {
            result = watcher.check(round % CONNECTOR_CHECK_EVERY == 0) => result,
            () = stop.cancelled() => return,
        };
        watcher.log_changes(&standing);
        watcher.standing = standing.clone();
        writer.publish(number, standing, has_response);
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = writer.wait_for_request() => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Watcher {
    inspector: Inspector,
    /// The recorded history as last read. `None` if nothing is recorded.
    history: Option<History>,
    connector_state: ConnectorState,
    /// Result of the previous check.
    standing: Standing,
    /// Whether the connector's snapshots were read at least once.
    snapshots_known: bool,
    /// Number of consecutive checks on which the connector streamed.
    streaming_checks: u32,
}

impl Watcher {
    /// Checks the source once. Also returns whether Postgres responded. Anything
    /// that cannot be read keeps its previous value.
    async fn check(&mut self, with_connector: bool) -> (Standing, bool) {
        let catalogue = match self.inspector.catalogue().await {
            Ok(catalogue) => catalogue,
            Err(error) => {
                let standing = Standing {
                    problem: Some(chain(&error)),
                    ..self.standing.clone()
                };
                return (standing, false);
            }
        };
        let looked_at_ms = Some(now_ms());
        let mut problem = None;
        if with_connector {
            problem = self.read_connector().await;
        }
        let history_known = match self.inspector.history().await {
            Ok(history) => {
                self.history = history;
                true
            }
            Err(error) => {
                problem = Some(chain(&error));
                false
            }
        };
        let findings = assess(
            &catalogue,
            self.inspector.expected(),
            self.history.as_ref(),
            &self.connector_state,
        );
        if history_known && let Err(error) = self.record(&catalogue, &findings).await {
            problem = Some(chain(&error));
        }
        let standing = Standing {
            looked_at_ms,
            problem,
            findings,
            altered: self.altered(&catalogue),
        };
        (standing, true)
    }

    /// Returns the columns that were altered since the last reconcile.
    fn altered(&self, catalogue: &Catalogue) -> Vec<AlteredColumn> {
        let Some(history) = &self.history else {
            return Vec::new();
        };
        let current = Fingerprint::of(catalogue, self.inspector.expected(), None);
        altered_columns(&history.baseline.fingerprint, &current)
    }

    /// Reads the connector and its snapshots. Returns a problem, if any.
    async fn read_connector(&mut self) -> Option<String> {
        let mut problem = None;
        match self.inspector.snapshot().await {
            Ok(snapshot) => {
                self.snapshots_known = true;
                self.connector_state.snapshot = snapshot.or(self.connector_state.snapshot.take());
            }
            Err(error) => problem = Some(chain(&error)),
        }
        match self.inspector.connector().await {
            // A deleted connector is reported elsewhere.
            Ok(connector) => self.connector_state.connector = connector,
            Err(error) => problem = Some(chain(&error)),
        }
        problem
    }

    /// Records everything that must outlive this process: the first fingerprint,
    /// and findings that no later check can detect.
    async fn record(
        &mut self,
        catalogue: &Catalogue,
        findings: &[Finding],
    ) -> Result<(), InspectError> {
        let records = self.inspector.records();
        let Some(history) = &self.history else {
            let streams = catalogue.slot.as_ref().is_some_and(|slot| slot.active);
            self.streaming_checks = if streams {
                self.streaming_checks + 1
            } else {
                0
            };
            let snapshot = self.connector_state.snapshot.clone();
            let has_snapshot = snapshot.is_some() || self.streaming_checks >= STREAMING_CHECKS;
            if streams && self.snapshots_known && has_snapshot {
                let expected = self.inspector.expected();
                let fingerprint = Fingerprint::of(catalogue, expected, snapshot);
                let connector = self.connector_state.connector.clone();
                records.begin(fingerprint, connector).await?;
            }
            return Ok(());
        };
        if history.baseline.connector.is_none()
            && let Some(connector) = &self.connector_state.connector
        {
            records.configured(history, connector.clone()).await?;
        }
        let now = Rfc3339(now_us()).to_string();
        records
            .remember(history, reasons_to_record(findings, &now))
            .await?;
        Ok(())
    }

    /// Logs the differences from the previous check.
    fn log_changes(&self, standing: &Standing) {
        for finding in &standing.findings {
            if !self.standing.findings.contains(finding) {
                let (what, remedy) = (&finding.what, &finding.remedy);
                tracing::warn!(code = finding.code.name(), what, remedy, "source");
            }
        }
        for finding in &self.standing.findings {
            if !standing.findings.contains(finding) {
                tracing::info!(what = finding.what, "source: resolved");
            }
        }
        if let Some(problem) = &standing.problem
            && self.standing.problem.as_ref() != Some(problem)
        {
            tracing::debug!(problem, "cannot check the source completely");
        }
    }
}
