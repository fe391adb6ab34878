//! The complete command line: the global flags and the list of commands.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{completions, context::Context, global::Global, outcome::Outcome};

/// Run a complete change-data-capture fan-out.
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

/// Parses the command line.
///
/// # Errors
/// Clap's error, which is also how it returns a request for help or the
/// version.
pub fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.global.record_invocation(&matches);
    Ok(cli)
}

/// The commands, in the order in which a new user needs them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the services that are stopped or have changed
    Up(crate::up::Arguments),
    /// Stop the stack, or some of its services, and keep the data
    Down(crate::down::Arguments),
    /// Remove everything that the project owns, after listing it
    Reset(crate::reset::Arguments),
    /// Show services, connector, slot and sinks, and what blocks them
    Status(crate::status::Arguments),
    /// Show service logs
    Logs(crate::logs::Arguments),
    /// Print the server addresses as shell variables
    Env(crate::env::Arguments),
    /// Apply, show, restart, pause, resume or delete the Debezium connector
    #[command(subcommand)]
    Connector(crate::connector::Command),
    /// Write sample content and events into the source
    Seed(crate::seed::Arguments),
    /// Run the pipeline: from Kafka into Redis, ClickHouse and the external
    /// system
    Run(crate::run::Arguments),
    /// Follow a test event through every hop; exit code 5 if a hop is broken
    Smoke(crate::smoke::Arguments),
    /// Show the latest raw records, rows, board members or calls
    Peek(crate::peek::Arguments),
    /// Show the board, or the events behind a score
    Leaderboard(crate::leaderboard::Arguments),
    /// Replay history from the log or the source, beside the live pipeline
    Backfill(crate::backfill::Arguments),
    /// Check that every store matches the source; exit code 5 if one does not
    Verify(crate::verify::Arguments),
    /// List, show, replay or purge dead letters
    #[command(subcommand)]
    Dlq(crate::dlq::Command),
    /// Check the machine and the servers, and show a fix for each problem
    Doctor(crate::doctor::Arguments),
    /// Run a mock external system with fault injection
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
    /// Returns the command's name in the JSON schema: `fanout.<name>/v1`.
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

    /// Returns true if the command runs until it is stopped, and therefore
    /// exits with 0 on a signal.
    pub fn runs_until_stopped(&self) -> bool {
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
            Self::Status(arguments) => arguments.runs_until_stopped(),
            Self::Logs(arguments) => arguments.runs_until_stopped(),
            Self::Seed(arguments) => arguments.runs_until_stopped(),
            Self::Peek(arguments) => arguments.runs_until_stopped(),
            Self::Leaderboard(arguments) => arguments.runs_until_stopped(),
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
    fn every_command_has_its_own_document_keys() {
        let frame = documents::build("", true, Map::new(), Json::Null).len();
        for command in Cli::command().get_subcommands() {
            let document = documents::build(command.get_name(), true, Map::new(), Json::Null);
            assert!(document.len() > frame, "{command}");
        }
    }
}
