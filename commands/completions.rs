//! `fanout completions` and `fanout man`: what the command line says of itself.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
};

/// For which shell.
#[derive(Debug, Args)]
pub struct Arguments {
    shell: Shell,
}

impl Arguments {
    /// Prints the script that completes `command`: the command line as a whole.
    pub fn run(self, context: &Context, mut command: Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "fanout", &mut script);
        conclude(context, "completions", "script", &script)
    }
}

/// The manual page of `command` in roff, one section for each command below it.
pub fn man(context: &Context, mut command: Command) -> Outcome {
    let mut page = Vec::new();
    command.build();
    // Writing into a vector does not fail.
    let _ = clap_mangen::Man::new(command.clone()).render(&mut page);
    sections(&command, &mut page);
    conclude(context, "man", "page", &page)
}

/// A section for each command below this one, nested ones after their own.
fn sections(command: &Command, page: &mut Vec<u8>) {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let _ = clap_mangen::Man::new(one.clone()).render(page);
        sections(one, page);
    }
}

fn conclude(context: &Context, command: &str, name: &str, bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    let report = serde_json::json!({ name: text });
    let printer = context.printer();
    printer.conclude(command, Verdict::Done, &report, || text.to_string())
}
