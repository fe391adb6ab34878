//! The question before something is destroyed.

use std::io::{self, IsTerminal as _};

use tokio::sync::oneshot;

use crate::context::Context;

/// Asks for `word`, where there is somebody to ask; says whether it came.
/// `what` follows it: `remove all of this`.
pub async fn confirmed(context: &Context, word: &str, what: &str) -> bool {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !asks || context.global().no_input || context.printer().is_json() {
        return false;
    }
    context.printer().ask(&format!("type {word} to {what}: "));
    line().await.is_some_and(|answer| answer.trim() == word)
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
