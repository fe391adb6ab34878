//! What the tests share: the stack, the binary, the stores, and waiting.

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
pub use held::Held;
pub use log::{Producer, Record, Topics, Written, records};
pub use stack::{Shared, Stack};
pub use stores::{Stores, accepted_by, set_faults};
#[cfg(feature = "crash-points")]
pub use worker::Doomed;
pub use worker::{Going, Stub, Worker, status_of};

/// How long anything may take on a busy machine before a test gives up. Never
/// a measure: what is waited for ends the waiting.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Drives the asynchronous clients for tests that read from top to bottom.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// The outcome of a future.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Looks again and again until `look` finds what it wants; what it last found
/// instead is the test's failure.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if begun.elapsed() > PATIENCE => {
                panic!("{what}: not within {} s\n{instead}", PATIENCE.as_secs())
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// `found`, where it is what is expected; both where it is not.
pub fn same<T: PartialEq + std::fmt::Debug>(expected: &T, found: T) -> Result<T, String> {
    if found == *expected {
        return Ok(found);
    }
    Err(format!("expected {expected:?}\nfound    {found:?}"))
}

/// The end of a long text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
