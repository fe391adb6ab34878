//! The wall clock, for all that stamps what it writes. What waits or measures
//! uses a monotonic one; the pure bottom is given the time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch.
#[must_use]
pub fn now_us() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    now_us() / 1000
}
