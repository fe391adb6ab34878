//! What a term reads and tells with, and how it ends.

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

/// How often a worker looks whether the source still lets it go on.
pub(super) const HOLD_INTERVAL: Duration = Duration::from_millis(500);

/// What a term reads, and tells, with.
pub(super) struct Context {
    pub(super) shared: Shared,
    pub(super) settings: config::Board,
    pub(super) log: Log,
    pub(super) notes: Notes,
    /// What was noted of it by releases before the state topic.
    pub(super) mended: Log,
    pub(super) stats: Arc<SinkStats>,
    pub(super) guard: ShapeGuard,
    pub(super) decoder: BoardDecoder,
}

/// Why a term as the board's holder ended.
pub(super) enum TermEnd {
    Stopped,
    LeaseLost,
    /// The log has to be read again: a truncate was met, in the light of which
    /// it reads otherwise; the topic is another; or the clock was set back.
    ReadAgain,
    /// The source has a shape that cannot be followed.
    Held,
    Trouble(Fault),
}

/// A term that has ended.
pub(super) struct Ended {
    pub(super) how: TermEnd,
    /// It had come so far that it published.
    pub(super) was_warm: bool,
}

impl From<TermEnd> for Ended {
    /// Before it had begun.
    fn from(how: TermEnd) -> Self {
        Self {
            how,
            was_warm: false,
        }
    }
}

impl Context {
    pub(super) fn endure(&self, fault: Fault, attempt: u32) -> Duration {
        let patience = self.shared.patience;
        patience.endure(&self.stats, WHOLE_SINK, fault, attempt)
    }

    /// How often the lease is renewed where no publication does it.
    pub(super) fn renewal(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms) / 3
    }
}

/// The lease is held, or the term ends.
pub(super) fn held(outcome: Result<bool, Fault>) -> Result<(), TermEnd> {
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(TermEnd::LeaseLost),
        Err(fault) => Err(TermEnd::Trouble(fault)),
    }
}

pub(super) fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}
