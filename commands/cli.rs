//! The command line as a whole: the global flags and the list of commands.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{completions, context::Context, global::Global, outcome::Outcome};

/// Run a change-data-capture fan-out, whole.
#[derive(Debug, Parser)]
#[command(
    name = "fanout",
    version,
    about,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Reads the command line.
///
/// # Errors
/// What clap has to say: also where help or the version was asked for.
pub fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.global.remember(&matches);
    Ok(cli)
}

/// The commands, in the order of a first day with fanout.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the stack, or what of it does not run or has changed
    Up(crate::up::Arguments),
    /// Stop the stack, or some services of it, and keep the data
    Down(crate::down::Arguments),
    /// Remove all that the project owns, after listing it
    Reset(crate::reset::Arguments),
    /// Show services, connector, slot and sinks, and where it is stuck
    Status(crate::status::Arguments),
    /// Show the services' logs
    Logs(crate::logs::Arguments),
    /// Print where the servers are, for a shell to read
    Env(crate::env::Arguments),
    /// Apply, look at, restart, pause, resume or delete the Debezium connector
    #[command(subcommand)]
    Connector(crate::connector::Command),
    /// Write made-up content and events into the source
    Seed(crate::seed::Arguments),
    /// Run the pipeline: from the log into Redis, ClickHouse and the external system
    Run(crate::run::Arguments),
    /// Follow one marked event through every hop; 5 when one is broken
    Smoke(crate::smoke::Arguments),
    /// Show the latest raw records, rows, members or calls
    Peek(crate::peek::Arguments),
    /// Show the board, or the events behind a score
    Leaderboard(crate::leaderboard::Arguments),
    /// Apply history again, from the log or the source, beside the live pipeline
    Backfill(crate::backfill::Arguments),
    /// Check that every store holds what the source says; 5 when one does not
    Verify(crate::verify::Arguments),
    /// List, show, apply again or forget what was rejected
    #[command(subcommand)]
    Dlq(crate::dlq::Command),
    /// Look at what the machine and the servers need, each with its fix
    Doctor(crate::doctor::Arguments),
    /// Run a stub of the external system that accepts events and injects faults
    Stub(crate::stub::Arguments),
    /// Show the effective configuration, or check a file
    #[command(subcommand)]
    Config(crate::config::Command),
    /// Print a completion script for a shell
    Completions(crate::completions::Arguments),
    /// Print the manual page
    Man,
}

impl Command {
    /// The name in the JSON schema: `fanout.<name>/v1`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Down(_) => "down",
            Self::Reset(_) => "reset",
            Self::Status(_) => "status",
            Self::Logs(_) => "logs",
            Self::Env(_) => "env",
            Self::Connector(_) => "connector",
            Self::Seed(_) => "seed",
            Self::Run(_) => "run",
            Self::Smoke(_) => "smoke",
            Self::Peek(_) => "peek",
            Self::Leaderboard(_) => "leaderboard",
            Self::Backfill(_) => "backfill",
            Self::Verify(_) => "verify",
            Self::Dlq(_) => "dlq",
            Self::Doctor(_) => "doctor",
            Self::Stub(_) => "stub",
            Self::Config(_) => "config",
            Self::Completions(_) => "completions",
            Self::Man => "man",
        }
    }

    /// Whether the command runs until it is stopped, and so ends orderly with
    /// 0 on a signal.
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Up(_)
            | Self::Down(_)
            | Self::Reset(_)
            | Self::Env(_)
            | Self::Connector(_)
            | Self::Smoke(_)
            | Self::Backfill(_)
            | Self::Verify(_)
            | Self::Dlq(_)
            | Self::Config(_)
            | Self::Doctor(_)
            | Self::Completions(_)
            | Self::Man => false,
            Self::Status(arguments) => arguments.goes_on(),
            Self::Logs(arguments) => arguments.goes_on(),
            Self::Seed(arguments) => arguments.goes_on(),
            Self::Peek(arguments) => arguments.goes_on(),
            Self::Leaderboard(arguments) => arguments.goes_on(),
            Self::Run(_) | Self::Stub(_) => true,
        }
    }

    /// Runs the command.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Up(arguments) => arguments.run(context).await,
            Self::Down(arguments) => arguments.run(context).await,
            Self::Reset(arguments) => arguments.run(context).await,
            Self::Status(arguments) => arguments.run(context).await,
            Self::Logs(arguments) => arguments.run(context).await,
            Self::Env(arguments) => arguments.run(context).await,
            Self::Connector(command) => command.run(context).await,
            Self::Seed(arguments) => arguments.run(context).await,
            Self::Run(arguments) => arguments.run(context).await,
            Self::Smoke(arguments) => arguments.run(context).await,
            Self::Peek(arguments) => arguments.run(context).await,
            Self::Leaderboard(arguments) => arguments.run(context).await,
            Self::Backfill(arguments) => arguments.run(context).await,
            Self::Verify(arguments) => arguments.run(context).await,
            Self::Dlq(command) => command.run(context).await,
            Self::Doctor(arguments) => arguments.run(context).await,
            Self::Stub(arguments) => arguments.run(context).await,
            Self::Config(command) => command.run(context),
            Self::Completions(arguments) => arguments.run(context, Cli::command()),
            Self::Man => completions::man(context, Cli::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value as Json};

    use super::*;
    use crate::documents;

    #[test]
    fn every_command_has_a_document_of_its_own() {
        let frame = documents::of("", true, Map::new(), Json::Null).len();
        for command in Cli::command().get_subcommands() {
            let document = documents::of(command.get_name(), true, Map::new(), Json::Null);
            assert!(document.len() > frame, "{command}");
        }
    }
}
