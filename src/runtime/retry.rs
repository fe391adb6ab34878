//! How long to wait between tries or until told to end, and telling of why: the pure backoff with
//! this process's randomness and settings.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Fault, Halt,
    stats::{SinkStats, WHOLE_SINK},
};
use crate::{config, time::backoff::Backoff};

/// What is halted looks again this often.
const HALT_INTERVAL: Duration = Duration::from_secs(5);

/// How the loop is told to end.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Finish what is in hand, commit it, and return.
    pub stop: CancellationToken,
    /// To be cancelled by a loop that cannot go on where it is: the sink is
    /// opened, and the group joined, again.
    pub again: CancellationToken,
}

/// The retry policy, the same for every sink.
#[derive(Debug, Clone, Copy)]
pub struct Patience(Backoff);

impl Patience {
    pub fn new(settings: &config::Pipeline) -> Self {
        Self(Backoff {
            base: Duration::from_millis(settings.retry_base_ms),
            cap: Duration::from_millis(settings.retry_max_ms),
        })
    }

    /// The wait after `attempt` failures beyond the first, with full jitter.
    pub fn delay(&self, attempt: u32) -> Duration {
        self.0.delay(attempt, rand::random())
    }

    /// Tells of a fault of one partition, or of the whole sink, in the log and
    /// in the status; returns how long to wait.
    pub fn endure(
        &self,
        stats: &SinkStats,
        partition: i32,
        fault: Fault,
        attempt: u32,
    ) -> Duration {
        match fault {
            Fault::Retry { reason, after } => {
                let wait = self.retry(stats, partition, &reason, after, attempt);
                stats.failed(partition, &reason);
                wait
            }
            Fault::Halt(halt) => {
                halt_for(stats, partition, halt);
                HALT_INTERVAL
            }
        }
    }

    /// Logs a transient fault; returns how long to wait.
    pub fn retry(
        &self,
        stats: &SinkStats,
        partition: i32,
        reason: &str,
        after: Option<Duration>,
        attempt: u32,
    ) -> Duration {
        let wait = after.unwrap_or_else(|| self.delay(attempt));
        let wait_ms = wait.as_millis();
        tracing::warn!(
            sink = stats.name(),
            partition = number(partition),
            attempt,
            wait_ms,
            reason,
            "trying again"
        );
        stats.unhalt(partition);
        wait
    }
}

/// Halts one partition, or the whole sink. In the log it is told once.
pub(super) fn halt_for(stats: &SinkStats, partition: i32, halt: Halt) {
    if stats.halt(partition, halt.clone()) {
        tracing::error!(
            sink = stats.name(),
            partition = number(partition),
            code = halt.code,
            reason = halt.reason,
            remedy = halt.remedy,
            "halted"
        );
    }
}

/// The partition, where it is one.
fn number(partition: i32) -> Option<i32> {
    (partition > WHOLE_SINK).then_some(partition)
}

/// Ticks that are not made up for when they were missed.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
