//! The wall clock, for recorded times. It may go back at any moment. Waits and durations use a
//! monotonic clock; the pure modules receive the time as an argument.
//!
//! With the feature `crash-points` a test can set the clock of one process, and set it back
//! while the process runs: `FANOUT_CLOCK_FILE` names a file with an offset in milliseconds.
//! Without the feature, none of this is in the binary.

use std::time::UNIX_EPOCH;

/// Returns the current time.
#[must_use]
#[cfg(not(feature = "crash-points"))]
pub fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(feature = "crash-points")]
pub use adjusted::now;

/// Returns the current time in microseconds since the epoch.
#[must_use]
pub fn now_us() -> i64 {
    let elapsed = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the current time in milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    now_us() / 1000
}

#[cfg(feature = "crash-points")]
mod adjusted {
    use std::{
        env, fs,
        path::PathBuf,
        sync::LazyLock,
        time::{Duration, SystemTime},
    };

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("FANOUT_CLOCK_FILE").map(PathBuf::from));

    /// Returns the machine's time plus the offset in the file.
    #[must_use]
    pub fn now() -> SystemTime {
        let now = SystemTime::now();
        let offset = FILE.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let Some(offset) = offset.and_then(|text| text.trim().parse::<i64>().ok()) else {
            return now;
        };
        let distance = Duration::from_millis(offset.unsigned_abs());
        let adjusted = if offset < 0 {
            now.checked_sub(distance)
        } else {
            now.checked_add(distance)
        };
        adjusted.unwrap_or(now)
    }
}
