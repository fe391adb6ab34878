//! The flags that every command takes, and those of them that hints repeat.

use std::path::PathBuf;

use clap::{ArgMatches, Args, ValueEnum, parser::ValueSource};
use fanout::config::{Runtime, project::Project};

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The project: one stack under one name
    #[arg(long, global = true, env = "FANOUT_PROJECT", default_value_t)]
    pub project: Project,
    /// How to run the services of a new project; existing projects keep their
    /// runtime
    #[arg(
        long,
        global = true,
        env = "FANOUT_RUNTIME",
        value_enum,
        default_value_t
    )]
    pub runtime: RuntimeChoice,
    /// The container engine, `unix:///run/docker.sock` or `tcp://…` [default:
    /// the one that the docker command uses]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        conflicts_with = "docker_context"
    )]
    pub docker_host: Option<String>,
    /// Docker context of the container engine
    #[arg(long, global = true, value_name = "NAME")]
    pub docker_context: Option<String>,
    /// Configuration file [default: ./fanout.yaml, if it exists]
    #[arg(long, global = true, env = "FANOUT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of stdout: text for people or one JSON document
    #[arg(
        long,
        global = true,
        env = "FANOUT_OUTPUT",
        value_enum,
        default_value_t
    )]
    pub output: Output,
    /// Print less
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more; twice to include the log lines of libraries
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colours
    #[arg(long, global = true, env = "FANOUT_COLOR", value_enum, default_value_t)]
    pub color: Color,
    /// Never prompt
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Flags on the command line that hints repeat, with their values: those
    /// that choose the stack and the configuration.
    #[arg(skip)]
    pub repeated_flags: Vec<(&'static str, String)>,
    /// The command that was run, for example `dlq replay`.
    #[arg(skip)]
    pub command_path: String,
}

/// The flags that hints repeat, each with clap's name for it.
const REPEATED: [(&str, &str); 4] = [
    ("--config", "config"),
    ("--runtime", "runtime"),
    ("--docker-host", "docker_host"),
    ("--docker-context", "docker_context"),
];

impl Global {
    /// Records the flags and the command that hints repeat.
    pub fn record_invocation(&mut self, matches: &ArgMatches) {
        self.repeated_flags = repeated_flags(matches);
        let mut names = Vec::new();
        let mut level = matches;
        while let Some((name, next)) = level.subcommand() {
            names.push(name);
            level = next;
        }
        self.command_path = names.join(" ");
    }
}

/// Returns the flags of [`REPEATED`] that are on the command line.
fn repeated_flags(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let with_value = |(flag, name): &(&'static str, &str)| {
        if matches.value_source(name)? != ValueSource::CommandLine {
            return None;
        }
        let value = matches.get_raw(name)?.next()?;
        Some((*flag, value.to_string_lossy().into_owned()))
    };
    REPEATED.iter().filter_map(with_value).collect()
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
    /// Returns the requested runtime, or `None` for `auto`.
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
