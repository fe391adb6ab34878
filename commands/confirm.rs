//! Questions before something is changed that is not fanout's to change, or is
//! destroyed, given up, or sent out again.

use std::io::{self, IsTerminal as _};

use fanout::failure::{Failure, Kind};
use tokio::sync::oneshot;

use crate::context::Context;

/// It was not confirmed.
#[derive(Debug, thiserror::Error)]
#[error("confirmation required to {what}")]
pub struct NotConfirmed {
    /// `remove all of project fanout`.
    what: String,
    /// The command that wants it: `dlq purge`.
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

/// Returns where `yes` was given, or `word` is typed on a terminal.
///
/// # Errors
/// When neither is; also where nobody can be asked.
pub async fn confirm(
    context: &Context,
    yes: bool,
    word: &str,
    what: &str,
) -> Result<(), NotConfirmed> {
    if yes || is_confirmed(context, word, what).await {
        return Ok(());
    }
    Err(NotConfirmed {
        what: what.to_owned(),
        command: context.global().path.clone(),
    })
}

/// Whether `word` is typed, where there is somebody to ask.
async fn is_confirmed(context: &Context, word: &str, what: &str) -> bool {
    let question = format!("type {word} to {what}: ");
    let answer = answer(context, &question).await;
    answer.is_some_and(|answer| answer.trim() == word)
}

/// Asks whether to go on, where there is somebody to ask. Anything but yes is
/// no.
pub async fn agreed(context: &Context, question: &str) -> bool {
    let answer = answer(context, &format!("{question} [y/N] ")).await;
    let is_yes = |answer: String| matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    answer.is_some_and(is_yes)
}

/// What was typed in answer; none where there is nobody to ask.
async fn answer(context: &Context, question: &str) -> Option<String> {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !asks || context.global().no_input || context.printer().is_json() {
        return None;
    }
    context.printer().ask(question);
    line().await
}

/// Reads a line from stdin. A signal meanwhile ends the command: the thread
/// that still reads is waited for by nobody, as one of the runtime's would be.
async fn line() -> Option<String> {
    let (sender, answer) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        // Nobody listens any more where a signal came first.
        let _ = sender.send(read.ok().map(|_| line));
    });
    answer.await.ok().flatten()
}
