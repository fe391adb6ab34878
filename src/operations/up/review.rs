//! What `up` would change on servers that are not fanout's own, and whatever
//! else an operator has to agree to, before anything is changed. Execution
//! holds to it: what was neither listed nor agreed to is not done.

use std::{collections::BTreeSet, fmt::Write as _};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Up, error::UpError};
use crate::{
    config::Runtime,
    failure::chain,
    operations::reset,
    progress::Progress,
    sinks::{clickhouse::owned, redis::BoardKeys},
    source::{
        self, Consent, Permit, ProvisionError,
        checks::{Code, Statement},
        connector::{self, Applied},
        topics::specs,
    },
    stack::{Service, plan::Action, runner},
};

/// Something that would be changed on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alteration {
    pub service: String,
    /// The server is not fanout's own.
    pub external: bool,
    /// A statement, or a sentence.
    pub what: String,
    /// What the operator should know of it.
    pub why: Option<String>,
    /// It is done only if the operator agrees.
    pub needs_consent: bool,
}

/// What would be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Review {
    pub alterations: Vec<Alteration>,
    /// Why some of it is not known.
    pub unknown: Vec<String>,
}

impl Review {
    /// What the operator has to agree to.
    pub fn to_agree(&self) -> impl Iterator<Item = &Alteration> {
        self.alterations.iter().filter(|one| one.needs_consent)
    }

    /// Consent to what is listed, and to nothing else.
    #[must_use]
    pub fn consent(&self) -> Consent {
        let listed = self.to_agree().map(|one| one.what.clone());
        Consent::Listed(listed.collect())
    }
}

/// As it is shown: what is altered, server by server.
#[must_use]
pub fn listing<'a>(alterations: impl Iterator<Item = &'a Alteration>) -> String {
    let mut text = String::new();
    let mut last = "";
    for one in alterations {
        if last != one.service {
            let whose = if one.external {
                ", not fanout's own"
            } else {
                ""
            };
            // Writing into a string cannot fail.
            let _ = write!(text, "\n{}{whose}:", one.service);
            last = &one.service;
        }
        let what = one.what.replace('\n', "\n  ");
        let _ = write!(text, "\n  {what}");
        if let Some(why) = &one.why {
            let _ = write!(text, "\n  ({why})");
        }
    }
    text.trim_start().to_owned()
}

impl Up {
    /// Asks the servers what `up` would change on them. Of fanout's own, those
    /// that run are asked. Where `tolerant`, a server that does not answer is
    /// no error.
    ///
    /// # Errors
    /// When an external server does not answer, or the source has a shape that
    /// is not supported.
    pub async fn review(&self, tolerant: bool, progress: &dyn Progress) -> Result<Review, UpError> {
        let services = self.blueprint.services.iter();
        let asked = services.filter(|service| self.is_asked(service));
        let looks = asked.map(|service| async move { (service, self.of(service, progress).await) });
        let mut review = Review::default();
        for (service, found) in join_all(looks).await {
            match found {
                Ok(found) => review.alterations.extend(found),
                Err(error @ UpError::Source(ProvisionError::Unsupported(_))) => return Err(error),
                Err(error) if tolerant => review.unknown.push(chain(&error)),
                // `apply` waits for it longer.
                Err(_) if service.runtime != Runtime::External => {}
                Err(error) => return Err(error),
            }
        }
        Ok(review)
    }

    /// Takes what the operator agrees to, and keeps on record for whose servers:
    /// the pipeline makes topics only where it may.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn agree(&mut self, review: &Review, consent: Consent) -> Result<(), UpError> {
        let services: BTreeSet<&str> = review
            .to_agree()
            .filter(|one| one.external)
            .map(|one| one.service.as_str())
            .collect();
        self.request.consent = consent;
        if !services.is_empty() {
            for service in services {
                self.blueprint.state.agree(service);
            }
            self.blueprint.state.save(&self.site.dir())?;
        }
        self.record.keep();
        Ok(())
    }

    /// The operator does not agree.
    pub fn decline(self, review: &Review) -> UpError {
        UpError::NotConfirmed {
            needed: listing(review.to_agree()),
            typed: self.request.typed,
        }
    }

    /// Whether a service runs already, whoever runs it.
    fn answers(&self, name: &str) -> bool {
        let mut steps = self.plan().steps.iter();
        steps.any(|step| step.service == name && step.action == Action::Keep)
    }

    /// External servers, and those of fanout's own that stay as they are.
    fn is_asked(&self, service: &Service) -> bool {
        let name = &service.definition.name;
        let has_tables = matches!(name.as_str(), "postgres" | "clickhouse");
        service.runtime == Runtime::External || has_tables && self.answers(name)
    }

    /// What would be changed on one server.
    async fn of(
        &self,
        service: &Service,
        progress: &dyn Progress,
    ) -> Result<Vec<Alteration>, UpError> {
        let name = service.definition.name.as_str();
        let external = service.runtime == Runtime::External;
        if external {
            runner::confirm(&self.site, service, self.request.timeout, progress).await?;
        }
        let alteration = |what: String| Alteration {
            service: name.to_owned(),
            external,
            what,
            why: None,
            needs_consent: external,
        };
        let settings = &self.blueprint.settings;
        Ok(match name {
            "postgres" => return self.of_postgres(alteration, !external).await,
            "clickhouse" => {
                let needed = owned::needed(&self.connections).await?.into_iter();
                needed.map(|(_, statement)| alteration(statement)).collect()
            }
            "kafka" if external && self.blueprint.service("connect").is_some() => {
                let missing = self.missing_topics().await?.into_iter();
                missing.map(|topic| alteration(creation(&topic))).collect()
            }
            "connect" if external => self
                .connector_change()
                .await?
                .into_iter()
                .map(alteration)
                .collect(),
            "redis"
                if self.blueprint.service("pipeline").is_some()
                    && !self.blueprint.state.has_agreed("redis") =>
            {
                let keys = BoardKeys::new(&settings.board.key);
                let keys = [keys.board, keys.meta, keys.lease].join(", ");
                vec![alteration(format!("write the keys {keys}"))]
            }
            _ => Vec::new(),
        })
    }

    async fn of_postgres(
        &self,
        alteration: impl Fn(String) -> Alteration,
        is_ours: bool,
    ) -> Result<Vec<Alteration>, UpError> {
        let connections = &self.connections;
        let all = Consent::All;
        let permit = Permit {
            is_ours,
            consent: &all,
        };
        let needed = source::needed(connections, permit).await?;
        let of_statement = |statement: Statement| {
            let mut found = alteration(statement.sql);
            if statement.repairs == Some(Code::TableMissing) {
                let table = statement.table.unwrap_or_default();
                let why = format!("{table} was dropped or renamed, and this one is empty");
                found.why = Some(why);
                found.needs_consent = true;
            }
            found
        };
        let mut alterations: Vec<Alteration> = needed.into_iter().map(of_statement).collect();
        if self.answers("kafka") {
            let drops = source::stray_drops(connections).await?.into_iter();
            alterations.extend(drops.map(|drop| alteration(drop.sql)));
        }
        if self.blueprint.service("connect").is_some() && !is_ours {
            alterations.extend(self.new_slot().await?.map(alteration));
        }
        Ok(alterations)
    }

    /// The slot that the connector makes, where it has to.
    pub(super) async fn new_slot(&self) -> Result<Option<String>, UpError> {
        let looked = source::look(&self.connections, false).await;
        let looked = looked.map_err(source::ProvisionError::from)?;
        let slot = &self.blueprint.settings.connector.slot;
        let missing = looked.catalogue.slot.is_none();
        Ok(missing.then(|| format!("create replication slot {slot}")))
    }

    /// Topics of the project that are not there, and that somebody will make.
    pub(super) async fn missing_topics(&self) -> Result<Vec<String>, UpError> {
        let settings = &self.blueprint.settings;
        let kafka = self.connections.kafka.clone();
        let listed = spawn_blocking(move || kafka.list_topics_and_groups()).await;
        let (there, _) = listed.map_err(UpError::Task)??;
        let mut wanted = if self.blueprint.state.has_agreed("kafka") {
            // The connector makes the others when it first needs them.
            let own = specs(settings).into_iter();
            own.map(|spec| spec.name).collect()
        } else {
            reset::topics_of(&self.site, settings)
        };
        let connect = self.blueprint.service("connect");
        if connect.is_none_or(|it| it.runtime == Runtime::External) {
            let inner = reset::topics_of_connect(&self.site);
            wanted.retain(|topic| !inner.contains(topic));
        }
        wanted.retain(|topic| !there.contains(topic));
        Ok(wanted.into_iter().collect())
    }

    /// What is done to the connector of a Connect that is not fanout's own.
    pub(super) async fn connector_change(&self) -> Result<Option<String>, UpError> {
        let settings = &self.blueprint.settings;
        let overrides = connector::overrides(&self.site, settings)?;
        let timeout = self.request.timeout;
        let planned = connector::plan(&self.connections, &overrides, timeout).await?;
        let name = &settings.connector.name;
        Ok(match planned {
            Applied::Unchanged => None,
            Applied::Created => Some(format!("create connector {name}")),
            Applied::Updated { changed, .. } => {
                let changed = changed.join(", ");
                Some(format!("update connector {name}: {changed}"))
            }
        })
    }
}

/// As it is listed.
pub(super) fn creation(topic: &str) -> String {
    format!("create topic {topic}")
}
