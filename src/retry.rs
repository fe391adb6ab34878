//! How long to wait before trying again. Knows neither a clock nor a source of
//! chance: both are passed in. What is worth trying again is each sink's
//! decision.

use std::time::{Duration, SystemTime};

/// Exponential backoff with full jitter: a random wait of up to
/// `base · 2^attempt`, never above `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The wait before the next try, after `attempt` failed ones following the
    /// first. `random` is from 0 up to 1; what is outside counts as the
    /// nearer end.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let random = if random.is_nan() {
            1.0
        } else {
            random.clamp(0.0, 1.0)
        };
        self.limit(attempt).mul_f64(random)
    }

    /// The longest wait after this many failures.
    #[must_use]
    pub fn limit(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

/// What a `Retry-After` header asks for, at most `cap`: a number of seconds,
/// or an HTTP date in any of its three forms. A date that has passed is no
/// wait; `None` is a header that cannot be read.
#[must_use]
pub fn retry_after(header: &str, now: SystemTime, cap: Duration) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = header.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(cap));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    let wait = date.duration_since(now).unwrap_or(Duration::ZERO);
    Some(wait.min(cap))
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
    fn the_wait_doubles_up_to_the_cap() {
        assert_eq!(BACKOFF.limit(0), Duration::from_millis(100));
        assert_eq!(BACKOFF.limit(1), Duration::from_millis(200));
        assert_eq!(BACKOFF.limit(9), Duration::from_millis(51_200));
        assert_eq!(BACKOFF.limit(10), CAP);
        assert_eq!(BACKOFF.limit(u32::MAX), CAP);
        assert_eq!(BACKOFF.delay(1, 0.5), Duration::from_millis(100));
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
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
            let wait = retry_after(header, now(), CAP);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_is_above_its_limit(attempt: u32, random: f64) {
            prop_assert!(BACKOFF.delay(attempt, random) <= BACKOFF.limit(attempt));
            prop_assert!(BACKOFF.limit(attempt) <= CAP);
        }

        #[test]
        fn any_header_is_survived(header in any::<String>()) {
            if let Some(wait) = retry_after(&header, now(), CAP) {
                prop_assert!(wait <= CAP);
            }
        }
    }
}
