//! Clients that no longer know any broker.
//!
//! If all brokers of a cluster are fenced, which happens briefly after the cluster was paused
//! or while its controllers have no quorum, it answers a metadata request with an empty list.
//! librdkafka (since 2.10, [issue 5301]) then drops every broker that it knows, including the
//! bootstrap servers, and never reconnects. A polled consumer has its bootstrap servers added
//! again; a client that only queries or produces is replaced by a new one.
//!
//! [issue 5301]: https://github.com/confluentinc/librdkafka/issues/5301

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    client::{Client, ClientContext},
    error::{KafkaError, RDKafkaErrorCode},
    statistics::Statistics,
};

use super::native;

/// Interval at which librdkafka reports the brokers that a polled consumer knows.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// A client that could not reach any broker for this long is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(20);

/// Whether a polled consumer still knows a broker, according to its last report.
#[derive(Debug, Default)]
pub(super) struct KnownBrokers {
    is_empty: AtomicBool,
}

impl KnownBrokers {
    /// Records a report.
    pub(super) fn record(&self, statistics: &Statistics) {
        let mut brokers = statistics.brokers.values();
        // The other brokers are internal to librdkafka, or represent a group's coordinator.
        let known =
            brokers.any(|broker| matches!(broker.source.as_str(), "configured" | "learned"));
        self.is_empty.store(!known, Ordering::Release);
    }

    /// Adds the bootstrap servers to the client again if it knows no broker.
    pub(super) fn restore<C: ClientContext>(&self, client: &Client<C>, servers: &str) {
        if !self.is_empty.swap(false, Ordering::AcqRel) {
            return;
        }
        let added = native::add_brokers(client, servers);
        tracing::warn!(
            servers,
            ?added,
            "the cluster listed no brokers, reconnecting"
        );
    }
}

/// A client that is replaced after it could not reach any broker for a while.
pub(super) struct Replaceable<T> {
    create: Box<dyn Fn() -> Result<T, KafkaError> + Send + Sync>,
    /// The client in use, and the time since which it has reached no broker.
    current: Mutex<(T, Option<Instant>)>,
}

impl<T: Clone> Replaceable<T> {
    /// Creates the first client.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub(super) fn new(
        create: impl Fn() -> Result<T, KafkaError> + Send + Sync + 'static,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            current: Mutex::new((create()?, None)),
            create: Box::new(create),
        })
    }

    /// Returns the current client.
    pub(super) fn get(&self) -> T {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0.clone()
    }

    /// Records the outcome of a call. The first failure to reach a broker starts a timer, and
    /// any other outcome stops it. When the timer expires, the client is replaced by a new one.
    pub(super) fn record_outcome<A>(&self, outcome: &Result<A, KafkaError>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unreachable = outcome.as_ref().is_err_and(is_unreachable_error);
        let (client, since) = &mut *current;
        if !is_unreachable {
            *since = None;
            return;
        }
        if since.get_or_insert_with(Instant::now).elapsed() < REPLACE_AFTER {
            return;
        }
        if let Ok(created) = (self.create)() {
            let replaced = std::mem::replace(client, created);
            *since = None;
            drop(current);
            // Outside the lock: closing a client may take a moment.
            drop(replaced);
        }
    }
}

/// Returns true if no broker could be reached, or none responded in time.
fn is_unreachable_error(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::WaitingForCoordinator
        )
    })
}

#[cfg(test)]
mod tests;
