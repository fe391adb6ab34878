//! The context of a command: the flags, the printer, the configuration and the
//! stop signal.

use std::{collections::BTreeMap, path::PathBuf};

use fanout::{
    config::{Config, Layers, load, project::Project},
    connections::Connections,
    failure::{Error, Failure, Hint, Kind},
    operations::check::check,
    secret::SecretUrl,
    spill::scratch::Scratch,
    stack::{
        Home, Site, State, StateError, cache_from_env,
        docker::discovery::Choice,
        reach::{self, Need},
        recorded_settings,
        resolve::on_configured_ports,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{global::Global, outcome::CommandError, printer::Printer, servers::pipeline_servers};

/// Configuration file if none is given.
const DEFAULT_FILE: &str = "fanout.yaml";

/// The context of one command.
#[derive(Debug)]
pub struct Context {
    global: Global,
    printer: Printer,
    stop: CancellationToken,
}

/// Errors of the process and its environment.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("cannot read {}", path.display())]
    ConfigFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("environment variable {name} is not valid UTF-8")]
    Variable { name: String },
    #[error("cannot determine the path of the fanout executable")]
    Program(#[source] std::io::Error),
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Home(#[from] Error),
    #[error("interrupted by {}", if *.0 == 2 { "SIGINT" } else { "SIGTERM" })]
    Interrupted(i32),
}

impl Failure for ContextError {
    fn kind(&self) -> Kind {
        match self {
            Self::ConfigFile { .. } | Self::Variable { .. } => Kind::Usage,
            Self::Program(_) | Self::Runtime(_) => Kind::Environment,
            Self::Home(error) => error.kind(),
            Self::Interrupted(signal) => Kind::Interrupted(*signal),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ConfigFile { .. } => "config_file",
            Self::Variable { .. } => "config_value",
            Self::Program(_) => "program",
            Self::Runtime(_) => "runtime",
            Self::Home(error) => error.code(),
            Self::Interrupted(_) => "interrupted",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::ConfigFile { .. } => {
                Some("give an existing file: --config FILE or FANOUT_CONFIG".to_owned())
            }
            Self::Variable { name } => Some(format!("unset {name}")),
            Self::Program(_) | Self::Runtime(_) => Some("fanout doctor".to_owned()),
            Self::Home(error) => error.hint(),
            Self::Interrupted(_) => None,
        }
    }

    fn structured_hint(&self) -> Option<&Hint> {
        match self {
            Self::Home(error) => error.structured_hint(),
            _ => None,
        }
    }
}

/// Returns the environment variables whose names start with `FANOUT_`.
fn variables() -> Result<BTreeMap<String, String>, ContextError> {
    let is_fanout = |name: &String| name.starts_with("FANOUT_");
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| is_fanout(name))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ContextError::Variable { name }),
        })
        .collect()
}

impl Context {
    pub fn new(global: &Global) -> Self {
        let stop = CancellationToken::new();
        Self {
            global: global.clone(),
            printer: Printer::new(global, stop.clone()),
            stop,
        }
    }

    pub fn global(&self) -> &Global {
        &self.global
    }

    pub fn project(&self) -> &Project {
        &self.global.project
    }

    pub fn printer(&self) -> &Printer {
        &self.printer
    }

    /// Returns the project on this machine.
    pub fn site(&self) -> Result<Site, ContextError> {
        Ok(Site {
            project: self.project().clone(),
            home: self.home()?,
            cache: cache_from_env()?,
            fanout: std::env::current_exe().map_err(ContextError::Program)?,
            config_file: self.config_path(),
            docker: Choice {
                host: self.global.docker_host.clone(),
                context: self.global.docker_context.clone(),
            },
        })
    }

    /// Returns the directory of this user's projects.
    #[expect(
        clippy::unused_self,
        reason = "callers get it from the context, like the rest"
    )]
    pub fn home(&self) -> Result<Home, Error> {
        Home::from_env()
    }

    /// Returns the directory for data that does not fit into memory.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        Ok(Scratch::of(self.home()?.project(self.project())))
    }

    /// Returns the token that the first SIGINT or SIGTERM cancels.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Returns the effective configuration.
    pub fn config(&self) -> Result<Config, CommandError> {
        self.config_with_flags(BTreeMap::new())
    }

    /// Returns the effective configuration for `reset`, which also removes a
    /// project with an unreadable state file.
    pub fn config_for_reset(&self) -> Result<Config, CommandError> {
        let recorded = match recorded_settings(&self.home()?, self.project()) {
            Err(StateError::Malformed { .. }) => BTreeMap::new(),
            settings => settings?,
        };
        self.load_config(recorded, BTreeMap::new())
    }

    /// Returns the effective configuration with the flags of the command
    /// applied: dotted key → (flag, value).
    pub fn config_with_flags(
        &self,
        flags: BTreeMap<String, (String, String)>,
    ) -> Result<Config, CommandError> {
        let config = self.unchecked_config(flags)?;
        check(&config.settings)?;
        Ok(config)
    }

    /// Returns the effective configuration for display, without checking that
    /// its values fit together.
    pub fn unchecked_config(
        &self,
        flags: BTreeMap<String, (String, String)>,
    ) -> Result<Config, CommandError> {
        self.load_config(recorded_settings(&self.home()?, self.project())?, flags)
    }

    fn load_config(
        &self,
        recorded: BTreeMap<String, SecretUrl>,
        flags: BTreeMap<String, (String, String)>,
    ) -> Result<Config, CommandError> {
        let layers = Layers {
            project: self.project().clone(),
            recorded,
            file: self.config_file()?,
            env: variables()?,
            flags,
        };
        let config = on_configured_ports(load(&layers)?)?;
        self.printer.hide(&config.settings);
        Ok(config)
    }

    /// Returns clients with the effective settings, if the command may use each
    /// of these services.
    pub async fn connect(&self, uses: &[(&str, Need)]) -> Result<Connections, CommandError> {
        self.connect_with(&self.config()?, uses).await
    }

    /// Returns clients with this configuration, if the command may use each of
    /// these services. Nothing is sent yet.
    pub async fn connect_with(
        &self,
        config: &Config,
        uses: &[(&str, Need)],
    ) -> Result<Connections, CommandError> {
        self.check_servers(config, uses).await?;
        Ok(Connections::of(&config.settings))
    }

    /// Returns the state that `up` recorded. Returns `None` if the project was
    /// never up and the configuration names all of its servers.
    pub async fn recorded_state(&self, config: &Config) -> Result<Option<State>, CommandError> {
        let state = State::load(&self.site()?.dir())?;
        if state.is_none() {
            let servers = pipeline_servers(&config.settings, Need::Located);
            self.check_servers(config, &servers).await?;
        }
        Ok(state)
    }

    /// Refuses servers that neither belong to the project nor are named in the
    /// configuration.
    async fn check_servers(
        &self,
        config: &Config,
        uses: &[(&str, Need)],
    ) -> Result<(), CommandError> {
        Ok(reach::check(&self.site()?, config, uses).await?)
    }

    /// Returns the project's defaults, ignoring the configuration file and the
    /// environment.
    pub fn default_config(&self) -> Result<Config, CommandError> {
        let project = self.project().clone();
        Ok(load(&Layers {
            project,
            ..Layers::default()
        })?)
    }

    /// Returns the absolute path of the configuration file, if it exists.
    /// Processes with another working directory read it too.
    fn config_path(&self) -> Option<PathBuf> {
        let given = self.global.config.clone();
        let path = given.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        path.canonicalize().ok()
    }

    fn config_file(&self) -> Result<Option<(PathBuf, String)>, ContextError> {
        let (path, is_given) = match &self.global.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_given => Ok(None),
            Err(source) => Err(ContextError::ConfigFile { path, source }),
        }
    }
}
