//! Changes of a backfill on external servers without the operator's consent. The plan lists
//! them, and the backfill makes them only after the operator has confirmed them.

use std::time::Duration;

use super::{
    error::BackfillError,
    request::Request,
    store::{insist, rebuild},
};
use crate::{
    connections::Connections,
    operations::up::Alteration,
    progress::Progress,
    sink_kind::SinkKind,
    sinks::clickhouse::owned,
    source::{
        connector::{self, ConnectorError},
        tables::reader_group,
        topics::specs,
    },
    stack::{ProjectDir, State},
    text::template::Values,
};

/// The services that a backfill can change.
const ALTERED: [&str; 4] = ["clickhouse", "kafka", "connect", "postgres"];

/// Timeout of Connect while planning.
const PLAN_TIMEOUT: Duration = Duration::from_secs(10);

/// The operator's consent to changes on servers.
#[derive(Debug, Clone, Default)]
pub(super) struct Consented {
    /// External servers without consent.
    withheld: Vec<&'static str>,
}

impl Consented {
    /// Returns the consent that the project's state contains. Without a project, the operator
    /// has agreed by configuring the servers.
    pub(super) fn on_record(dir: &ProjectDir) -> Result<Self, BackfillError> {
        let state = State::load(dir)?;
        let is_withheld = |service: &&'static str| {
            let state = state.as_ref();
            state.is_some_and(|state| !state.may_alter(service))
        };
        let withheld = ALTERED.into_iter().filter(is_withheld);
        Ok(Self {
            withheld: withheld.collect(),
        })
    }

    fn may_alter(&self, service: &str) -> bool {
        !self.withheld.contains(&service)
    }

    /// Returns the changes of this request on servers without consent.
    pub(super) async fn alterations(
        &self,
        connections: &Connections,
        request: &Request,
    ) -> Result<Vec<Alteration>, BackfillError> {
        let mut found = Vec::new();
        if !self.may_alter("kafka") && request.creates_topics() {
            found.extend(listed("kafka", missing_topics(connections).await?));
        }
        if !request.rebuilds() {
            return Ok(found);
        }
        if !self.may_alter("clickhouse") && request.has(SinkKind::ClickHouse) {
            found.extend(listed("clickhouse", tables(connections).await?));
        }
        if !self.may_alter("connect") || !self.may_alter("postgres") {
            let planned = connector::plan_repair(connections, PLAN_TIMEOUT).await?;
            let (at_connect, at_postgres) = planned;
            if !self.may_alter("connect") {
                found.extend(listed("connect", at_connect));
            }
            if !self.may_alter("postgres") {
                found.extend(listed("postgres", at_postgres));
            }
        }
        Ok(found)
    }

    /// Returns an error if a table must be created or moved aside without consent.
    pub(super) async fn check_tables(
        &self,
        connections: &Connections,
    ) -> Result<(), BackfillError> {
        if self.may_alter("clickhouse") {
            return Ok(());
        }
        refuse("clickhouse", tables(connections).await?)
    }

    /// Creates the missing topics.
    pub(super) async fn ensure_topics(
        &self,
        connections: &Connections,
    ) -> Result<(), BackfillError> {
        if self.may_alter("kafka") {
            let specs = specs(connections.settings());
            return Ok(connections.kafka.ensure_topics(&specs).await?);
        }
        refuse("kafka", missing_topics(connections).await?)
    }

    /// Makes the connector run. Returns true if it has started from scratch with an initial
    /// snapshot.
    pub(super) async fn repair_connector(
        &self,
        connections: &Connections,
        timeout: Duration,
        progress: &dyn Progress,
    ) -> Result<bool, BackfillError> {
        if self.may_alter("connect") && self.may_alter("postgres") {
            return Ok(connector::repair(connections, timeout, progress).await?);
        }
        let (at_connect, at_postgres) = connector::plan_repair(connections, timeout).await?;
        if !self.may_alter("connect") {
            refuse("connect", at_connect)?;
        }
        if !self.may_alter("postgres") {
            refuse("postgres", at_postgres)?;
        }
        match connector::apply(connections, &Values::new(), timeout, progress).await {
            Err(ConnectorError::SlotLost { name, slot }) => {
                let what = format!("restart connector {name} from scratch on a new slot {slot}");
                let service = if self.may_alter("connect") {
                    "postgres"
                } else {
                    "connect"
                };
                Err(BackfillError::NotConfirmed { service, what })
            }
            applied => Ok(applied.map(|_| false)?),
        }
    }
}

fn listed(service: &'static str, whats: Vec<String>) -> impl Iterator<Item = Alteration> {
    whats.into_iter().map(move |what| Alteration {
        service: service.to_owned(),
        external: true,
        what,
        why: None,
        needs_consent: true,
    })
}

/// Returns an error for the first change, if there is any.
fn refuse(service: &'static str, whats: Vec<String>) -> Result<(), BackfillError> {
    match whats.into_iter().next() {
        Some(what) => Err(BackfillError::NotConfirmed { service, what }),
        None => Ok(()),
    }
}

/// Returns the renames of wrong tables, and the statements that create missing objects.
async fn tables(connections: &Connections) -> Result<Vec<String>, BackfillError> {
    let settings = connections.settings();
    let rebuild = rebuild(connections, true)?;
    let patience = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    let wrong = insist(patience, async || rebuild.wrong_tables().await).await?;
    let database = &settings.clickhouse.database;
    let renamed = wrong.into_iter().map(|table| {
        let from = format!("{database}.{table}");
        format!("RENAME TABLE {from} TO {from}_aside_<time>, and recreate it")
    });
    let missing = owned::needed(connections).await?.into_iter();
    Ok(renamed
        .chain(missing.map(|(_, statement)| statement))
        .collect())
}

async fn missing_topics(connections: &Connections) -> Result<Vec<String>, BackfillError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "backfill"))?;
    let mut missing = Vec::new();
    for spec in specs(settings) {
        if log.identity(&spec.name).await?.is_none() {
            missing.push(format!("create topic {}", spec.name));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure as _, Kind};

    #[test]
    fn a_change_without_consent_is_refused() {
        let withheld = Consented {
            withheld: vec!["kafka"],
        };
        assert!(!withheld.may_alter("kafka") && withheld.may_alter("connect"));
        assert!(Consented::default().may_alter("kafka"));
        assert!(refuse("kafka", Vec::new()).is_ok());
        let refused = refuse("kafka", vec!["create topic t".to_owned()]);
        let error = refused.expect_err("refused");
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(
            error.to_string(),
            "confirmation required: kafka is external and needs: create topic t"
        );
        assert_eq!(error.hint().as_deref(), Some("fanout backfill --yes"));
    }
}
