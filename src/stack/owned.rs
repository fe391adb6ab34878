//! What fanout owns on the servers of a project. Each component implements
//! [`Owned`] for its own server; `up` and `reset` loop over the components.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::{Site, blueprint::Blueprint, plan::Action};
use crate::{
    config::{Runtime, project::Project},
    connections::{Connections, clickhouse::InvalidUrl},
    failure::{Failure, Kind},
    progress::Progress,
};

/// A component that owns objects on one server.
pub trait Owned: Sync {
    /// Returns the name of the service that holds the objects.
    fn service(&self) -> &'static str;

    /// Returns when and how the objects are removed.
    fn removal(&self) -> Removal;

    /// Lists the objects of this project that exist on an external server.
    /// Objects of others are never listed.
    fn objects<'a>(
        &'a self,
        connections: &'a Connections,
        project: &'a Project,
    ) -> BoxFuture<'a, Result<Vec<Object>, OwnedError>>;

    /// Returns the changes that `up` would make on the server, in their order.
    fn changes<'a>(&'a self, up: Upcoming<'a>) -> BoxFuture<'a, Result<Vec<Change>, OwnedError>>;

    /// Removes objects of this component. A missing object is not an error.
    fn remove<'a>(
        &'a self,
        objects: &'a [Object],
        reset: Removing<'a>,
    ) -> BoxFuture<'a, Result<(), OwnedError>>;
}

/// An object on a server. Listings and the journal of `reset` contain it in
/// this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The service that holds it.
    pub service: Cow<'static, str>,
    /// `topic`, `slot`, `key` …
    pub kind: Cow<'static, str>,
    pub name: String,
}

impl Object {
    /// Returns an object of this kind.
    #[must_use]
    pub fn new(service: &'static str, kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            kind: kind.into(),
            name: name.into(),
        }
    }
}

/// A change that `up` would make on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A statement, or a sentence.
    pub what: String,
    /// What the operator should know about it.
    pub why: Option<String>,
    /// Whether it needs consent even on a server that fanout runs. On an
    /// external server, every change needs consent.
    pub needs_consent: bool,
}

impl Change {
    /// Returns a change that needs consent only on an external server.
    #[must_use]
    pub fn new(what: String) -> Self {
        Self {
            what,
            why: None,
            needs_consent: false,
        }
    }
}

/// When and how `reset` removes the objects of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// All at once, while the servers that fanout runs are still up.
    BeforeStop,
    /// One by one, after the servers that fanout runs have stopped.
    OneByOne,
    /// All at once, after the objects that are removed one by one.
    Last,
}

/// An `up` that has been planned and has not changed anything yet.
#[derive(Debug, Clone, Copy)]
pub struct Upcoming<'a> {
    pub site: &'a Site,
    pub blueprint: &'a Blueprint,
    pub connections: &'a Connections,
    /// Maximum time until a server that is starting is ready.
    pub timeout: Duration,
}

impl Upcoming<'_> {
    /// Returns true if this `up` includes the service.
    #[must_use]
    pub fn includes(&self, service: &str) -> bool {
        self.blueprint.service(service).is_some()
    }

    /// Returns true if this `up` includes the service, and it is external.
    #[must_use]
    pub fn is_external(&self, service: &str) -> bool {
        let service = self.blueprint.service(service);
        service.is_some_and(|service| service.runtime == Runtime::External)
    }

    /// Returns true if the service already runs and is left unchanged.
    #[must_use]
    pub fn is_running(&self, service: &str) -> bool {
        let mut steps = self.blueprint.plan.steps.iter();
        steps.any(|step| step.service == service && step.action == Action::Keep)
    }
}

/// A `reset` that removes objects.
#[derive(Clone, Copy)]
pub struct Removing<'a> {
    pub connections: &'a Connections,
    /// Maximum time for a server to comply.
    pub timeout: Duration,
    pub progress: &'a dyn Progress,
}

/// Error while listing, changing or removing the objects of a component: an
/// error of that component, reported unchanged.
#[derive(Debug)]
pub struct OwnedError(Box<dyn Failure>);

impl OwnedError {
    /// Wraps the component's error.
    pub fn new(error: impl Failure) -> Self {
        Self(Box::new(error))
    }

    /// Returns the component's error if it has this type.
    #[must_use]
    pub fn downcast_ref<E: Failure>(&self) -> Option<&E> {
        let error: &(dyn Error + 'static) = &*self.0;
        error.downcast_ref()
    }
}

impl fmt::Display for OwnedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl Error for OwnedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        (*self.0).source()
    }
}

impl Failure for OwnedError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn code(&self) -> &'static str {
        self.0.code()
    }

    fn hint(&self) -> Option<String> {
        self.0.hint()
    }
}

/// Error while listing or removing the objects on an external server.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("{service}, which is external, does not do it")]
    Server {
        service: &'static str,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("a task of this program was lost")]
    Task(#[from] JoinError),
}

impl ExternalError {
    /// Wraps the error of a server's client.
    pub fn server(service: &'static str, error: impl Error + Send + Sync + 'static) -> Self {
        Self::Server {
            service,
            source: Box::new(error),
        }
    }

    /// Returns the hint for any failure of an external server.
    #[must_use]
    pub fn retry_hint() -> String {
        "make sure that the server answers, then: fanout reset".to_owned()
    }
}

impl From<ExternalError> for OwnedError {
    fn from(error: ExternalError) -> Self {
        Self::new(error)
    }
}

impl Failure for ExternalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Server { .. } => Kind::NotReady,
            Self::Url(_) => Kind::Usage,
            Self::Task(_) => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        "external_not_removed"
    }

    fn hint(&self) -> Option<String> {
        Some(Self::retry_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::chain;

    #[test]
    fn a_components_error_is_reported_unchanged() {
        let refusal = std::io::Error::other("connection refused");
        let error = OwnedError::from(ExternalError::server("redis", refusal));
        assert_eq!(
            chain(&error),
            "redis, which is external, does not do it: connection refused"
        );
        assert_eq!(error.kind(), Kind::NotReady);
        assert_eq!(error.code(), "external_not_removed");
        assert!(error.hint().is_some());
        assert!(error.downcast_ref::<ExternalError>().is_some());
        assert!(error.downcast_ref::<OwnedError>().is_none());
    }
}
