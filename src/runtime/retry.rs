//! The retry policy: reports faults and halts, and returns the delay until the next
//! attempt. Combines the pure backoff with this process's randomness and settings.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Fault, Halt,
    stats::{SinkStats, WHOLE_SINK},
};
use crate::{config, time::backoff::Backoff};

/// Interval at which a halted sink is checked again.
const HALT_INTERVAL: Duration = Duration::from_secs(5);

/// Signals that stop a partition loop, or restart the whole sink.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Once cancelled, the loop finishes and commits the current batch and returns.
    pub stop: CancellationToken,
    /// Cancelled by a loop that cannot continue: the worker then reopens the sink
    /// and rejoins the group.
    pub restart: CancellationToken,
}

/// The retry policy, the same for every sink.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy(Backoff);

impl RetryPolicy {
    pub fn new(settings: &config::Pipeline) -> Self {
        Self(Backoff {
            base: Duration::from_millis(settings.retry_base_ms),
            cap: Duration::from_millis(settings.retry_max_ms),
        })
    }

    /// Returns the delay after `attempt` failures beyond the first, with full jitter.
    pub fn delay(&self, attempt: u32) -> Duration {
        self.0.delay(attempt, rand::random())
    }

    /// Reports a fault of one partition, or of the whole sink, in the log and in the
    /// status. Returns the delay until the next attempt.
    pub fn report_fault(
        &self,
        stats: &SinkStats,
        partition: i32,
        fault: Fault,
        attempt: u32,
    ) -> Duration {
        match fault {
            Fault::Retry { reason, after } => {
                let wait = self.report_retry(stats, partition, &reason, after, attempt);
                stats.failed(partition, &reason);
                wait
            }
            Fault::Halt(halt) => {
                halt_for(stats, partition, halt);
                HALT_INTERVAL
            }
        }
    }

    /// Logs a transient fault. Returns the delay until the next attempt.
    pub fn report_retry(
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
            "retrying"
        );
        stats.unhalt(partition);
        wait
    }
}

/// Halts one partition, or the whole sink. The same halt is logged only once.
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

/// Returns the partition number, or `None` for a pseudo partition.
fn number(partition: i32) -> Option<i32> {
    (partition > WHOLE_SINK).then_some(partition)
}

/// Returns an interval that skips missed ticks.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
