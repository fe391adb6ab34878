//! The delay before a retry. Uses neither a clock nor a random generator: the caller passes
//! both values. Each sink decides which errors are retriable.

use std::time::{Duration, SystemTime};

/// Exponential backoff with full jitter: a random delay of up to `base · 2^attempt`, but never
/// above `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// Returns the delay before the next attempt, after `attempt` failed retries. `random` is
    /// between 0 and 1; values outside are clamped.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let random = if random.is_nan() {
            1.0
        } else {
            random.clamp(0.0, 1.0)
        };
        self.limit(attempt).mul_f64(random)
    }

    /// Returns the maximum delay after this number of failures.
    #[must_use]
    pub fn limit(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

/// Returns the delay that a `Retry-After` header requests, at most `cap`. The header is a
/// number of seconds, or an HTTP date in any of its three forms. A date in the past gives a
/// zero delay. Returns `None` for an invalid header.
#[must_use]
pub fn retry_after(header: &str, now: SystemTime, cap: Duration) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = header.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(cap));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    let delay = date.duration_since(now).unwrap_or(Duration::ZERO);
    Some(delay.min(cap))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP: Duration = Duration::from_mins(1);
    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(100),
        cap: CAP,
    };

    fn now() -> SystemTime {
        // Sun, 06 Nov 1994 08:49:37 GMT
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn the_delay_doubles_up_to_the_cap() {
        assert_eq!(BACKOFF.limit(0), Duration::from_millis(100));
        assert_eq!(BACKOFF.limit(1), Duration::from_millis(200));
        assert_eq!(BACKOFF.limit(9), Duration::from_millis(51_200));
        assert_eq!(BACKOFF.limit(10), CAP);
        assert_eq!(BACKOFF.limit(u32::MAX), CAP);
        assert_eq!(BACKOFF.delay(1, 0.5), Duration::from_millis(100));
    }

    #[test]
    fn every_form_of_retry_after_is_parsed() {
        for (header, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("61", Some(60)),
            ("99999999999999999999999", Some(60)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(60)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let delay = retry_after(header, now(), CAP);
            assert_eq!(delay, seconds.map(Duration::from_secs), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_delay_is_above_its_limit(attempt: u32, random: f64) {
            prop_assert!(BACKOFF.delay(attempt, random) <= BACKOFF.limit(attempt));
            prop_assert!(BACKOFF.limit(attempt) <= CAP);
        }

        #[test]
        fn any_header_is_parsed_without_a_panic(header in any::<String>()) {
            if let Some(delay) = retry_after(&header, now(), CAP) {
                prop_assert!(delay <= CAP);
            }
        }
    }
}
