//! Clients that no longer know any broker.
//!
//! A cluster whose brokers are all fenced, for a moment after it was paused or
//! while its controllers have no quorum, answers a metadata request with an
//! empty list. librdkafka (since 2.10, [issue 5301]) then drops every broker it
//! knows, the bootstrap servers included, and never connects again. A consumer
//! that is polled is given its bootstrap servers once more; a client that only
//! asks or produces is replaced by a new one.
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

/// How often librdkafka reports which brokers a polled consumer knows.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// A client that has reached no broker for this long is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(20);

/// Whether a polled consumer still knows a broker, as last reported.
#[derive(Debug, Default)]
pub(super) struct KnownBrokers {
    none: AtomicBool,
}

impl KnownBrokers {
    /// Takes note of a report.
    pub(super) fn reported(&self, statistics: &Statistics) {
        let mut brokers = statistics.brokers.values();
        // The others are librdkafka's own, or stand for a group's coordinator.
        let known = brokers.any(|one| matches!(one.source.as_str(), "configured" | "learned"));
        self.none.store(!known, Ordering::Release);
    }

    /// Gives the client its bootstrap servers again where it knows no broker.
    pub(super) fn restore<C: ClientContext>(&self, client: &Client<C>, servers: &str) {
        if !self.none.swap(false, Ordering::AcqRel) {
            return;
        }
        let added = native::add_brokers(client, servers);
        tracing::warn!(
            servers,
            ?added,
            "the cluster listed no broker, connecting again"
        );
    }
}

/// A client that is replaced when it has not reached a broker for a while.
pub(super) struct Replaceable<T> {
    make: Box<dyn Fn() -> Result<T, KafkaError> + Send + Sync>,
    /// The client in use, and since when it has reached no broker.
    current: Mutex<(T, Option<Instant>)>,
}

impl<T: Clone> Replaceable<T> {
    /// Makes the first client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(
        make: impl Fn() -> Result<T, KafkaError> + Send + Sync + 'static,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            current: Mutex::new((make()?, None)),
            make: Box::new(make),
        })
    }

    /// The client to use now.
    pub(super) fn get(&self) -> T {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0.clone()
    }

    /// Takes note of how a call ended. The first failure to reach a broker
    /// starts the clock, any other outcome stops it; when the time is over the
    /// client is replaced by a new one.
    pub(super) fn ended<A>(&self, outcome: &Result<A, KafkaError>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let unreachable = outcome.as_ref().is_err_and(is_unreachable);
        let (client, since) = &mut *current;
        if !unreachable {
            *since = None;
            return;
        }
        if since.get_or_insert_with(Instant::now).elapsed() < REPLACE_AFTER {
            return;
        }
        if let Ok(made) = (self.make)() {
            let replaced = std::mem::replace(client, made);
            *since = None;
            drop(current);
            // Outside the lock: closing a client may take a moment.
            drop(replaced);
        }
    }
}

/// Whether no broker was reached at all, or none answered in time.
fn is_unreachable(error: &KafkaError) -> bool {
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
