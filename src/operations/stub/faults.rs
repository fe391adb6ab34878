//! Injected faults, for testing how a client handles them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Default status of an injected failure.
const STATUS: u16 = 503;

/// Faults of `POST /events`. A failing request does not accept its event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Fraction of requests that fail, from 0 to 1. If only `status` is set, all requests fail.
    pub fail_rate: Option<f64>,
    /// Status of a failure. Defaults to 503.
    pub status: Option<u16>,
    /// `Retry-After` header of a failure.
    pub retry_after_seconds: Option<u64>,
    /// Delay of each request.
    pub delay_ms: u64,
}

impl Faults {
    /// Checks the values.
    ///
    /// # Errors
    /// A message for the first invalid value.
    pub fn check(&self) -> Result<(), &'static str> {
        if self
            .fail_rate
            .is_some_and(|rate| !(0.0..=1.0).contains(&rate))
        {
            return Err("fail_rate must be between 0 and 1");
        }
        if self
            .status
            .is_some_and(|status| !(200..600).contains(&status))
        {
            return Err("status must be between 200 and 599");
        }
        Ok(())
    }

    /// Returns the status to fail with, or `None` to succeed. `random` is uniform in [0, 1).
    #[must_use]
    pub fn failure(&self, random: f64) -> Option<u16> {
        let rate = match (self.fail_rate, self.status) {
            (Some(rate), _) => rate,
            (None, Some(_)) => 1.0,
            (None, None) => 0.0,
        };
        (random < rate).then_some(self.status.unwrap_or(STATUS))
    }

    /// Returns the delay of each request.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_alone_fails_all_requests_and_a_rate_some_of_them() {
        let faults = |fail_rate, status| Faults {
            fail_rate,
            status,
            ..Faults::default()
        };
        assert_eq!(faults(None, None).failure(0.0), None);
        assert_eq!(faults(None, Some(429)).failure(0.99), Some(429));
        assert_eq!(faults(Some(0.5), None).failure(0.49), Some(503));
        assert_eq!(faults(Some(0.5), None).failure(0.5), None);
        assert_eq!(faults(Some(0.0), Some(500)).failure(0.0), None);
        assert!(faults(Some(1.5), None).check().is_err());
        assert!(faults(None, Some(99)).check().is_err());
    }
}
