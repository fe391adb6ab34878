//! What a backfill would alter on servers that are not fanout's own and that
//! nobody has agreed to have altered. It is listed in the plan, and done only
//! when the operator has confirmed it.

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

/// The services that a backfill may alter.
const ALTERED: [&str; 4] = ["clickhouse", "kafka", "connect", "postgres"];

/// How long Connect may take to say what it has.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Which servers may be altered.
#[derive(Debug, Clone, Default)]
pub(super) struct Consented {
    /// External ones that nobody has agreed to have altered.
    withheld: Vec<&'static str>,
}

impl Consented {
    /// What the project has on record. Without a project, whoever named the
    /// servers has agreed.
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

    /// What this request would alter on the servers that nobody has agreed to.
    pub(super) async fn alterations(
        &self,
        connections: &Connections,
        request: &Request,
    ) -> Result<Vec<Alteration>, BackfillError> {
        let mut found = Vec::new();
        if !self.may_alter("kafka") && request.makes_topics() {
            found.extend(listed("kafka", missing_topics(connections).await?));
        }
        if !request.rebuilds() {
            return Ok(found);
        }
        if !self.may_alter("clickhouse") && request.has(SinkKind::ClickHouse) {
            found.extend(listed("clickhouse", tables(connections).await?));
        }
        if !self.may_alter("connect") || !self.may_alter("postgres") {
            let (at_connect, at_postgres) = connector::to_mend(connections, LOOK_PATIENCE).await?;
            if !self.may_alter("connect") {
                found.extend(listed("connect", at_connect));
            }
            if !self.may_alter("postgres") {
                found.extend(listed("postgres", at_postgres));
            }
        }
        Ok(found)
    }

    /// Refuses where a table would have to be made or moved aside, and nobody
    /// has agreed.
    pub(super) async fn check_tables(
        &self,
        connections: &Connections,
    ) -> Result<(), BackfillError> {
        if self.may_alter("clickhouse") {
            return Ok(());
        }
        refuse("clickhouse", tables(connections).await?)
    }

    /// Makes the topics that are missing.
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

    /// Makes the connector run. Returns whether it has begun again with a
    /// snapshot of everything.
    pub(super) async fn mend_connector(
        &self,
        connections: &Connections,
        timeout: Duration,
        progress: &dyn Progress,
    ) -> Result<bool, BackfillError> {
        if self.may_alter("connect") && self.may_alter("postgres") {
            return Ok(connector::mend(connections, timeout, progress).await?);
        }
        let (at_connect, at_postgres) = connector::to_mend(connections, timeout).await?;
        if !self.may_alter("connect") {
            refuse("connect", at_connect)?;
        }
        if !self.may_alter("postgres") {
            refuse("postgres", at_postgres)?;
        }
        match connector::apply(connections, &Values::new(), timeout, progress).await {
            Err(ConnectorError::SlotLost { name, slot }) => {
                let what = format!("begin connector {name} again on a new slot {slot}");
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

/// Refuses the first of these, where there is any.
fn refuse(service: &'static str, whats: Vec<String>) -> Result<(), BackfillError> {
    match whats.into_iter().next() {
        Some(what) => Err(BackfillError::NotConfirmed { service, what }),
        None => Ok(()),
    }
}

/// Tables that would be moved aside, and what is missing.
async fn tables(connections: &Connections) -> Result<Vec<String>, BackfillError> {
    let settings = connections.settings();
    let rebuild = rebuild(connections, true)?;
    let patience = Duration::from_millis(settings.clickhouse.request_timeout_ms);
    let wrong = insist(patience, async || rebuild.wrong_tables().await).await?;
    let database = &settings.clickhouse.database;
    let renamed = wrong.into_iter().map(|table| {
        let from = format!("{database}.{table}");
        format!("RENAME TABLE {from} TO {from}_aside_<time>, and create it anew")
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
    fn what_nobody_has_agreed_to_is_refused_by_name() {
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
            "confirmation required: kafka is not fanout's own, and needs: create topic t"
        );
        assert_eq!(error.hint().as_deref(), Some("fanout backfill --yes"));
    }
}
