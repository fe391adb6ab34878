//! Ctrl-C once is orderly, twice is at once.

use fanout::failure::Kind;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{context::ContextError, exit, outcome::CommandError};

/// Waits for the first SIGINT or SIGTERM, cancels `stop`, and gives the
/// signal's number. A second signal ends the process there and then.
pub async fn first(stop: &CancellationToken) -> std::io::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        }
    };
    let number = next().await;
    stop.cancel();
    tokio::spawn(async move {
        let number = next().await;
        std::process::exit(i32::from(exit::code(Kind::Interrupted(number))));
    });
    Ok(number)
}

/// Ends a command with `interrupted` when a signal comes first. Commands that
/// go on take the signal themselves, through `stop`.
pub async fn interrupts<T>(
    stop: &CancellationToken,
    goes_on: bool,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::pin!(work);
    tokio::select! {
        // In this order: the handlers are there before the work says a word.
        biased;
        signal = first(stop) => match signal {
            Ok(_) if goes_on => work.await,
            Ok(number) => Err(ContextError::Interrupted(number).into()),
            // Without handlers the system's own way of stopping holds.
            Err(_) => work.await,
        },
        outcome = &mut work => outcome,
    }
}
