//! The question before something is destroyed.

use std::io::{self, IsTerminal as _};

use crate::context::Context;

/// Asks for `word`, where there is somebody to ask; says whether it came.
/// `what` follows it: `remove all of this`.
pub fn confirmed(context: &Context, word: &str, what: &str) -> bool {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !asks || context.global().no_input || context.printer().is_json() {
        return false;
    }
    context.printer().ask(&format!("type {word} to {what}: "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && answer.trim() == word
}
