//! Helpers shared by the tests: the stack, the binary, the stores, and waiting.

mod bench;
mod binary;
pub mod canary;
#[cfg(feature = "crash-points")]
mod clock;
mod event;
mod guard;
mod held;
mod log;
mod stack;
mod stores;
pub mod trials;
mod worker;

use std::{
    future::Future,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

pub use bench::Bench;
pub use binary::{Ended, Fanout};
#[cfg(feature = "crash-points")]
pub use clock::Clock;
pub use event::{Event, content};
pub use held::PausedProcess;
pub use log::{Producer, Record, Topics, Written, records};
pub use stack::{Shared, Stack};
pub use stores::{Stores, accepted_by, set_faults};
#[cfg(feature = "crash-points")]
pub use worker::CrashingCommand;
pub use worker::{RunningCommand, Stub, Worker, fetch_status};

/// Upper bound for every wait, generous enough for a busy machine. A wait ends
/// as soon as its condition is met.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// Interval between two checks.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs the asynchronous clients of these synchronous tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Blocks until the future completes.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Repeats `check` until it succeeds and returns its result. Panics with the
/// last error after [`TIMEOUT`].
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(error) if start.elapsed() > TIMEOUT => {
                panic!(
                    "{what}: not reached within {} s\n{error}",
                    TIMEOUT.as_secs()
                )
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Returns `found` if it equals `expected`, otherwise an error that shows both.
pub fn check_equal<T: PartialEq + std::fmt::Debug>(expected: &T, found: T) -> Result<T, String> {
    if found == *expected {
        return Ok(found);
    }
    Err(format!("expected {expected:?}\nfound    {found:?}"))
}

/// Returns the last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
