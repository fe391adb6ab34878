//! The context of a lease session, and the ways it ends.

use std::{sync::Arc, time::Duration};

use crate::{
    config,
    kafka::{KafkaError, Log},
    runtime::{
        Fault, Notes,
        shape::ShapeGuard,
        shared::Shared,
        stats::{SinkStats, WHOLE_SINK},
    },
    sinks::redis::sink::BoardDecoder,
};

/// Interval at which a worker checks whether the source halts the sink.
pub(super) const SOURCE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The clients, settings and state that a lease session uses.
pub(super) struct Context {
    pub(super) shared: Shared,
    pub(super) settings: config::Board,
    pub(super) log: Log,
    pub(super) notes: Notes,
    /// The log through which releases without a state topic recorded backfills,
    /// as commits.
    pub(super) legacy_backfills: Log,
    pub(super) stats: Arc<SinkStats>,
    pub(super) guard: ShapeGuard,
    pub(super) decoder: BoardDecoder,
}

/// Why a lease session ended.
pub(super) enum SessionEnd {
    Stopped,
    LeaseLost,
    /// The board must be rebuilt from the log: a truncate removed rows that may
    /// have been applied, the topic has changed, or the clock was set back.
    RebuildRequired,
    /// The source halts the sink: its schema is unsupported.
    SourceHalted,
    Fault(Fault),
}

/// A lease session that has ended.
pub(super) struct EndedSession {
    pub(super) end: SessionEnd,
    /// Whether the session finished the rebuild and published.
    pub(super) was_warm: bool,
}

impl From<SessionEnd> for EndedSession {
    /// Returns a session that ended before the rebuild was finished.
    fn from(end: SessionEnd) -> Self {
        Self {
            end,
            was_warm: false,
        }
    }
}

impl Context {
    /// Reports a fault of the sink. Returns the time to wait before the next try.
    pub(super) fn report_fault(&self, fault: Fault, attempt: u32) -> Duration {
        let retry_policy = self.shared.retry_policy;
        retry_policy.report_fault(&self.stats, WHOLE_SINK, fault, attempt)
    }

    /// Returns the interval at which the lease is renewed while nothing is
    /// published. A publication also renews the lease.
    pub(super) fn renewal_interval(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms) / 3
    }
}

/// Returns an error if the lease is not held, or if Redis does not respond.
pub(super) fn require_lease(is_held: Result<bool, Fault>) -> Result<(), SessionEnd> {
    match is_held {
        Ok(true) => Ok(()),
        Ok(false) => Err(SessionEnd::LeaseLost),
        Err(fault) => Err(SessionEnd::Fault(fault)),
    }
}

pub(super) fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}
