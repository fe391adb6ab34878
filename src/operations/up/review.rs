//! Lists what `up` would change on external servers, and everything else that
//! needs the operator's consent, before anything is changed. Changes that were
//! not listed and confirmed are not made.

use std::{collections::BTreeSet, fmt::Write as _};

use futures_util::future::join_all;
use serde::Serialize;

use super::{Up, error::UpError};
use crate::{
    config::Runtime,
    failure::chain,
    operations::owned::owner,
    progress::Progress,
    source::{Consent, ProvisionError},
    stack::{
        Service,
        owned::{OwnedError, Upcoming},
        runner,
    },
};

/// A change that would be made on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alteration {
    pub service: String,
    /// Whether the server is external.
    pub external: bool,
    /// A statement, or a sentence.
    pub what: String,
    /// What the operator should know about it.
    pub why: Option<String>,
    /// Whether it is made only with the operator's consent.
    pub needs_consent: bool,
}

/// The changes that would be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Review {
    pub alterations: Vec<Alteration>,
    /// Why some changes are unknown.
    pub unknown: Vec<String>,
}

impl Review {
    /// Returns the changes that need the operator's consent.
    pub fn to_agree(&self) -> impl Iterator<Item = &Alteration> {
        self.alterations.iter().filter(|one| one.needs_consent)
    }

    /// Returns consent to these changes, and to no others.
    #[must_use]
    pub fn consent(&self) -> Consent {
        let listed = self.to_agree().map(|one| one.what.clone());
        Consent::Listed(listed.collect())
    }
}

/// Lists changes for display, grouped by server.
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
    /// Determines what `up` would change on the servers: on external ones, and on
    /// running ones that stay as they are. If `tolerant`, a server that does not
    /// respond is not an error.
    ///
    /// # Errors
    /// If an external server does not respond, or the source has a shape that is
    /// not supported.
    pub async fn review(&self, tolerant: bool, progress: &dyn Progress) -> Result<Review, UpError> {
        let services = self.blueprint.services.iter();
        let asked = services.filter(|service| self.is_asked(service));
        let looks = asked.map(|service| async move { (service, self.of(service, progress).await) });
        let mut review = Review::default();
        for (service, found) in join_all(looks).await {
            match found {
                Ok(found) => review.alterations.extend(found),
                Err(UpError::Owned(error)) if is_unsupported(&error) => return Err(error.into()),
                Err(error) if tolerant => review.unknown.push(chain(&error)),
                // `apply` waits longer for it.
                Err(_) if service.runtime != Runtime::External => {}
                Err(error) => return Err(error),
            }
        }
        Ok(review)
    }

    /// Accepts the operator's consent, and records the external services that it
    /// covers: the pipeline creates topics only if it may.
    ///
    /// # Errors
    /// If the state cannot be saved.
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

    /// Returns the error for an operator who does not consent.
    pub fn decline(self, review: &Review) -> UpError {
        UpError::NotConfirmed {
            needed: listing(review.to_agree()),
            typed: self.request.typed,
        }
    }

    /// Returns what the components need to know about this `up`.
    pub(super) fn upcoming(&self) -> Upcoming<'_> {
        Upcoming {
            site: &self.site,
            blueprint: &self.blueprint,
            connections: &self.connections,
            timeout: self.request.timeout,
        }
    }

    /// Returns true for an external service, and for a running one that stays as
    /// it is.
    fn is_asked(&self, service: &Service) -> bool {
        let name = &service.definition.name;
        service.runtime == Runtime::External || self.upcoming().is_running(name)
    }

    /// Determines what would be changed on one server.
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
        let Some(component) = owner(name) else {
            return Ok(Vec::new());
        };
        let changes = component.changes(self.upcoming()).await?.into_iter();
        let alterations = changes.map(|change| Alteration {
            service: name.to_owned(),
            external,
            what: change.what,
            why: change.why,
            needs_consent: external || change.needs_consent,
        });
        Ok(alterations.collect())
    }
}

/// Returns true if the source has a shape that is not supported.
fn is_unsupported(error: &OwnedError) -> bool {
    let error = error.downcast_ref::<ProvisionError>();
    matches!(error, Some(ProvisionError::Unsupported(_)))
}
