//! `fanout completions` and `fanout man`: generate the completion script and
//! the manual page from the command line.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Arguments of `fanout completions`.
#[derive(Debug, Args)]
pub struct Arguments {
    shell: Shell,
}

impl Arguments {
    /// Prints the completion script of `command`, the complete command line.
    pub fn run(self, context: &Context, mut command: Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "fanout", &mut script);
        conclude(context, "completions", "script", &script)
    }
}

/// Prints the manual page of `command` in roff, with a section for each
/// subcommand.
pub fn man(context: &Context, mut command: Command) -> Outcome {
    let mut page = Vec::new();
    command.build();
    // Writing into a vector cannot fail.
    let _ = clap_mangen::Man::new(command.clone()).render(&mut page);
    render_sections(&command, &mut page);
    conclude(context, "man", "page", &page)
}

/// Renders a section for each subcommand, followed by the sections of its own
/// subcommands.
fn render_sections(command: &Command, page: &mut Vec<u8>) {
    let subcommands = command.get_subcommands();
    for subcommand in subcommands.filter(|command| !command.is_hide_set()) {
        let _ = clap_mangen::Man::new(subcommand.clone()).render(page);
        render_sections(subcommand, page);
    }
}

fn conclude(context: &Context, command: &str, name: &str, bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    let report = serde_json::json!({ name: text });
    let printer = context.printer();
    printer.conclude(command, Verdict::Done, &report, || text.to_string())
}
