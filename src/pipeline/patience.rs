//! How long to wait between tries: the pure backoff with this process's
//! randomness and settings.

use std::time::Duration;

use crate::{config, retry::Backoff};

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
}
