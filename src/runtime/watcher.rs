//! Watches over the source while the pipeline runs.

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

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Connect, and the notifications, are asked at each so many looks.
const SURROUNDINGS_EVERY: u32 = 5;

/// A connector that has streamed for so many looks and tells of no initial
/// snapshot has had its one long ago.
const STEADY_LOOKS: u32 = 5;

/// Looks until told to stop, and publishes what it sees.
pub async fn watch(connections: Connections, writer: SourceWriter, stop: CancellationToken) {
    let inspector = match Inspector::new(&connections) {
        Ok(inspector) => inspector,
        Err(error) => {
            let error = chain(&error);
            tracing::error!(error, "the source is not watched");
            return;
        }
    };
    let mut watcher = Watcher {
        inspector,
        history: None,
        surroundings: ConnectorState::default(),
        standing: Standing::default(),
        snapshots_known: false,
        steady: 0,
    };
    for look in 0_u32.. {
        let number = writer.begin();
        let (looked, answered) = tokio::select! {
            looked = watcher.look(look % SURROUNDINGS_EVERY == 0) => looked,
            () = stop.cancelled() => return,
        };
        watcher.tell(&looked);
        watcher.standing = looked.clone();
        writer.publish(number, looked, answered);
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = writer.wanted() => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Watcher {
    inspector: Inspector,
    /// As it was last read; none where nothing has been kept.
    history: Option<History>,
    surroundings: ConnectorState,
    standing: Standing,
    /// The connector's snapshots could be asked for at least once.
    snapshots_known: bool,
    /// Looks in a row at which the connector streamed.
    steady: u32,
}

impl Watcher {
    /// Looks once; says whether Postgres answered. What cannot be asked is as it
    /// was.
    async fn look(&mut self, at_surroundings: bool) -> (Standing, bool) {
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
        if at_surroundings {
            problem = self.look_around().await;
        }
        let known = match self.inspector.history().await {
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
            &self.surroundings,
        );
        if known && let Err(error) = self.keep(&catalogue, &findings).await {
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

    fn altered(&self, catalogue: &Catalogue) -> Vec<AlteredColumn> {
        let Some(history) = &self.history else {
            return Vec::new();
        };
        let now = Fingerprint::of(catalogue, self.inspector.expected(), None);
        altered_columns(&history.baseline.fingerprint, &now)
    }

    async fn look_around(&mut self) -> Option<String> {
        let mut problem = None;
        match self.inspector.snapshot().await {
            Ok(snapshot) => {
                self.snapshots_known = true;
                self.surroundings.snapshot = snapshot.or(self.surroundings.snapshot.take());
            }
            Err(error) => problem = Some(chain(&error)),
        }
        match self.inspector.connector().await {
            // One that was deleted is missed elsewhere.
            Ok(connector) => self.surroundings.connector = connector,
            Err(error) => problem = Some(chain(&error)),
        }
        problem
    }

    /// Keeps what has to outlive this process: the first fingerprint, and what
    /// no later look can see.
    async fn keep(
        &mut self,
        catalogue: &Catalogue,
        findings: &[Finding],
    ) -> Result<(), InspectError> {
        let records = self.inspector.records();
        let Some(history) = &self.history else {
            let streams = catalogue.slot.as_ref().is_some_and(|slot| slot.active);
            self.steady = if streams { self.steady + 1 } else { 0 };
            let snapshot = self.surroundings.snapshot.clone();
            let had_its_snapshot = snapshot.is_some() || self.steady >= STEADY_LOOKS;
            if streams && self.snapshots_known && had_its_snapshot {
                let expected = self.inspector.expected();
                let fingerprint = Fingerprint::of(catalogue, expected, snapshot);
                let connector = self.surroundings.connector.clone();
                records.begin(fingerprint, connector).await?;
            }
            return Ok(());
        };
        if history.baseline.connector.is_none()
            && let Some(connector) = &self.surroundings.connector
        {
            records.configured(history, connector.clone()).await?;
        }
        let now = Rfc3339(now_us()).to_string();
        records
            .remember(history, reasons_to_record(findings, &now))
            .await?;
        Ok(())
    }

    /// Tells what is new, in the log.
    fn tell(&self, looked: &Standing) {
        for finding in &looked.findings {
            if !self.standing.findings.contains(finding) {
                let (what, remedy) = (&finding.what, &finding.remedy);
                tracing::warn!(code = finding.code.name(), what, remedy, "source");
            }
        }
        for finding in &self.standing.findings {
            if !looked.findings.contains(finding) {
                tracing::info!(what = finding.what, "source: no longer so");
            }
        }
        if let Some(problem) = &looked.problem
            && self.standing.problem.as_ref() != Some(problem)
        {
            tracing::debug!(problem, "source not seen in full");
        }
    }
}
