//! Signals: the first Ctrl-C shuts down cleanly, the second one exits
//! immediately.

use fanout::failure::Kind;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{context::ContextError, exit, outcome::CommandError};

/// Waits for the first SIGINT or SIGTERM, cancels `stop`, and returns the
/// signal's number. A second signal exits the process immediately.
pub async fn wait_for_signal(stop: &CancellationToken) -> std::io::Result<i32> {
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

/// Runs a command until it completes or a signal interrupts it. A command that
/// runs until it is stopped is not interrupted: it handles `stop` itself.
pub async fn run_until_signal<T>(
    stop: &CancellationToken,
    runs_until_stopped: bool,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::pin!(work);
    tokio::select! {
        // The order installs the handlers before the command prints anything.
        biased;
        signal = wait_for_signal(stop) => match signal {
            Ok(_) if runs_until_stopped => work.await,
            Ok(number) => Err(ContextError::Interrupted(number).into()),
            // Without handlers, a signal has its default effect.
            Err(_) => work.await,
        },
        outcome = &mut work => outcome,
    }
}
