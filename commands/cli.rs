//! The command line as a whole: global flags and the list of commands.

use std::path::PathBuf;

use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    parser::ValueSource,
};
use fanout::{config::Runtime, project::Project};

use crate::{completions, context::Context, exit::Outcome};

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

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The project: one stack under one name
    #[arg(long, global = true, env = "FANOUT_PROJECT", default_value_t)]
    pub project: Project,
    /// How a new project's services are run; an old one keeps its own
    #[arg(
        long,
        global = true,
        env = "FANOUT_RUNTIME",
        value_enum,
        default_value_t
    )]
    pub runtime: RuntimeChoice,
    /// The container engine: `unix:///run/docker.sock`, `tcp://…` [default: as the docker command finds it]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        conflicts_with = "docker_context"
    )]
    pub docker_host: Option<String>,
    /// The docker command's context that names the container engine
    #[arg(long, global = true, value_name = "NAME")]
    pub docker_context: Option<String>,
    /// Configuration file [default: ./fanout.yaml where there is one]
    #[arg(long, global = true, env = "FANOUT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What stdout holds: text for people or one JSON document
    #[arg(
        long,
        global = true,
        env = "FANOUT_OUTPUT",
        value_enum,
        default_value_t
    )]
    pub output: Output,
    /// Say less
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for what the libraries say
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colours
    #[arg(long, global = true, env = "FANOUT_COLOR", value_enum, default_value_t)]
    pub color: Color,
    /// Never ask
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Flags that hints repeat: those of the stack and the configuration that
    /// the command line has, with their values.
    #[arg(skip)]
    pub given: Vec<(&'static str, String)>,
    /// The command that was called: `dlq replay`.
    #[arg(skip)]
    pub path: String,
}

/// Those flags, and clap's names of them.
const REPEATED: [(&str, &str); 4] = [
    ("--config", "config"),
    ("--runtime", "runtime"),
    ("--docker-host", "docker_host"),
    ("--docker-context", "docker_context"),
];

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

impl Global {
    /// Keeps what hints have to repeat.
    pub fn remember(&mut self, matches: &ArgMatches) {
        self.given = given(matches);
        let mut names = Vec::new();
        let mut level = matches;
        while let Some((name, below)) = level.subcommand() {
            names.push(name);
            level = below;
        }
        self.path = names.join(" ");
    }
}

/// The repeated flags that the command line has.
fn given(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let of = |(flag, name): &(&'static str, &str)| {
        if matches.value_source(name)? != ValueSource::CommandLine {
            return None;
        }
        let value = matches.get_raw(name)?.next()?;
        Some((*flag, value.to_string_lossy().into_owned()))
    };
    REPEATED.iter().filter_map(of).collect()
}

/// `--runtime`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RuntimeChoice {
    #[default]
    Auto,
    Docker,
    Native,
}

impl RuntimeChoice {
    /// The runtime asked for; none for `auto`.
    pub fn explicit(self) -> Option<Runtime> {
        match self {
            Self::Auto => None,
            Self::Docker => Some(Runtime::Docker),
            Self::Native => Some(Runtime::Native),
        }
    }
}

/// `--output`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Human,
    Json,
}

/// `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
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
            Self::Completions(arguments) => arguments.run(context),
            Self::Man => completions::man(context),
        }
    }
}
