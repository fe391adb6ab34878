//! The flags that every command takes, and what hints repeat of them.

use std::path::PathBuf;

use clap::{ArgMatches, Args, ValueEnum, parser::ValueSource};
use fanout::{config::Runtime, project::Project};

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
