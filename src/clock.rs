//! The wall clock, for whatever puts a time on what it writes. Nothing may rely
//! on it never going back. Waits and durations use a monotonic clock; the pure
//! modules are given the time.
//!
//! With the feature `crash-points` a test can set the clock of one process, and
//! set it back while the process runs: `FANOUT_CLOCK_FILE` names a file that
//! holds an offset in milliseconds. Without the feature nothing of this is in
//! the binary.

use std::time::UNIX_EPOCH;

/// The present moment.
#[must_use]
#[cfg(not(feature = "crash-points"))]
pub fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(feature = "crash-points")]
pub use moved::now;

/// Microseconds since the epoch.
#[must_use]
pub fn now_us() -> i64 {
    let elapsed = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    now_us() / 1000
}

#[cfg(feature = "crash-points")]
mod moved {
    use std::{
        env, fs,
        path::PathBuf,
        sync::LazyLock,
        time::{Duration, SystemTime},
    };

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("FANOUT_CLOCK_FILE").map(PathBuf::from));

    /// The present moment, as far from the machine's as the file says.
    #[must_use]
    pub fn now() -> SystemTime {
        let now = SystemTime::now();
        let offset = FILE.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let Some(offset) = offset.and_then(|text| text.trim().parse::<i64>().ok()) else {
            return now;
        };
        let distance = Duration::from_millis(offset.unsigned_abs());
        let moved = if offset < 0 {
            now.checked_sub(distance)
        } else {
            now.checked_add(distance)
        };
        moved.unwrap_or(now)
    }
}
