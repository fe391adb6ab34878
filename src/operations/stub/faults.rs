//! Failures to order, for trying out what the other side does about them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The status of an ordered failure when none is named.
const STATUS: u16 = 503;

/// How `POST /events` misbehaves. A failure is answered without accepting the
/// event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Which part of the requests fails, from 0 to 1. With `status` and
    /// without this, all do.
    pub fail_rate: Option<f64>,
    /// What a failure is answered with; 503 unless said.
    pub status: Option<u16>,
    /// `Retry-After` of a failure.
    pub retry_after_seconds: Option<u64>,
    /// Each request waits so long first.
    pub delay_ms: u64,
}

impl Faults {
    /// What to check before it is used.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        if self
            .fail_rate
            .is_some_and(|rate| !(0.0..=1.0).contains(&rate))
        {
            return Err("fail_rate goes from 0 to 1");
        }
        if self
            .status
            .is_some_and(|status| !(200..600).contains(&status))
        {
            return Err("status goes from 200 to 599");
        }
        Ok(())
    }

    /// The status to fail with, for a throw of the dice from 0 up to 1.
    #[must_use]
    pub fn failure(&self, dice: f64) -> Option<u16> {
        let rate = match (self.fail_rate, self.status) {
            (Some(rate), _) => rate,
            (None, Some(_)) => 1.0,
            (None, None) => 0.0,
        };
        (dice < rate).then_some(self.status.unwrap_or(STATUS))
    }

    /// How long to wait first.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_alone_fails_everything_and_a_rate_alone_some() {
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
