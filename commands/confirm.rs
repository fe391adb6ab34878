//! Confirmation before fanout alters external servers, destroys or abandons
//! data, or sends events again.

use std::io::{self, IsTerminal as _};

use fanout::failure::{Failure, Kind};
use tokio::sync::oneshot;

use crate::context::Context;

/// The user did not confirm the change.
#[derive(Debug, thiserror::Error)]
#[error("confirmation required to {action}")]
pub struct NotConfirmed {
    /// The change, for example `remove all of project fanout`.
    action: String,
    /// The command that needs the confirmation, for example `dlq purge`.
    command: String,
}

impl Failure for NotConfirmed {
    fn kind(&self) -> Kind {
        Kind::Refused
    }

    fn code(&self) -> &'static str {
        "not_confirmed"
    }

    fn hint(&self) -> Option<String> {
        Some(format!("fanout {} --yes", self.command))
    }
}

/// Returns if `yes` is set or the user types `word` on a terminal.
///
/// # Errors
/// If the user declines or cannot be asked.
pub async fn confirm(
    context: &Context,
    yes: bool,
    word: &str,
    action: &str,
) -> Result<(), NotConfirmed> {
    if yes || is_typed(context, word, action).await {
        return Ok(());
    }
    Err(NotConfirmed {
        action: action.to_owned(),
        command: context.global().command_path.clone(),
    })
}

/// Asks the user to type `word`. Returns true if they did.
async fn is_typed(context: &Context, word: &str, action: &str) -> bool {
    let question = format!("type {word} to {action}: ");
    let answer = answer(context, &question).await;
    answer.is_some_and(|answer| answer.trim() == word)
}

/// Asks the user a yes-or-no question. Any answer but yes means no, and so does
/// no answer.
pub async fn ask_yes_or_no(context: &Context, question: &str) -> bool {
    let answer = answer(context, &format!("{question} [y/N] ")).await;
    let is_yes = |answer: String| matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    answer.is_some_and(is_yes)
}

/// Asks a question and returns the answer, or `None` if the user cannot be
/// asked.
async fn answer(context: &Context, question: &str) -> Option<String> {
    let is_interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !is_interactive || context.global().no_input || context.printer().is_json() {
        return None;
    }
    context.printer().ask(question);
    read_line().await
}

/// Reads a line from stdin. It uses its own thread, because the runtime would
/// wait for its threads: a signal must end the command while the read is still
/// blocked.
async fn read_line() -> Option<String> {
    let (sender, answer) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        // After a signal, the receiver is dropped.
        let _ = sender.send(read.ok().map(|_| line));
    });
    answer.await.ok().flatten()
}
