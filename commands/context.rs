//! What a command is given: the flags, the printer, the configuration, and
//! the signal to stop.

use std::{collections::BTreeMap, path::PathBuf};

use fanout::{
    clients::Connections,
    config::{Config, Layers, load},
    failure::{Failure, Kind},
    operations::{check::check, scratch::Scratch},
    project::Project,
    secret::SecretUrl,
    stack::{
        Home, HomeError, Site, State, StateError, cache_from_env,
        docker::surroundings::Choice,
        reach::{self, Need, ReachError},
        recorded_settings,
        resolve::on_configured_ports,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{global::Global, outcome::CommandError, printer::Printer, servers::of_pipeline};

/// The configuration read when no file is named.
const DEFAULT_FILE: &str = "fanout.yaml";

/// The surroundings of one command.
#[derive(Debug)]
pub struct Context {
    global: Global,
    printer: Printer,
    stop: CancellationToken,
}

/// Errors of the surroundings themselves.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("{} cannot be read", path.display())]
    ConfigFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("environment variable {name} is no UTF-8")]
    Variable { name: String },
    #[error("this program's own file cannot be found")]
    Program(#[source] std::io::Error),
    #[error("the asynchronous runtime does not start")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Home(#[from] HomeError),
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
                Some("name a file that is there: --config FILE or FANOUT_CONFIG".to_owned())
            }
            Self::Variable { name } => Some(format!("unset {name}")),
            Self::Program(_) | Self::Runtime(_) => Some("fanout doctor".to_owned()),
            Self::Home(error) => error.hint(),
            Self::Interrupted(_) => None,
        }
    }
}

/// The environment, as far as it can concern fanout.
fn variables() -> Result<BTreeMap<String, String>, ContextError> {
    let own = |name: &String| name.starts_with("FANOUT_");
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| own(name))
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

    /// The project on this machine.
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

    /// Where fanout keeps this user's projects.
    #[expect(
        clippy::unused_self,
        reason = "part of the surroundings, like the rest"
    )]
    pub fn home(&self) -> Result<Home, HomeError> {
        Home::from_env()
    }

    /// Where the project's commands put what does not fit into memory.
    pub fn scratch(&self) -> Result<Scratch, HomeError> {
        Ok(Scratch::of(self.home()?.project(self.project())))
    }

    /// Cancelled by the first SIGINT or SIGTERM.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The effective configuration.
    pub fn config(&self) -> Result<Config, CommandError> {
        self.config_with_flags(BTreeMap::new())
    }

    /// The effective configuration, also of a project whose state nobody can
    /// read: it is to be removed.
    pub fn config_for_reset(&self) -> Result<Config, CommandError> {
        let recorded = match recorded_settings(&self.home()?, self.project()) {
            Err(StateError::Malformed { .. }) => BTreeMap::new(),
            other => other?,
        };
        self.layered(recorded, BTreeMap::new())
    }

    /// The effective configuration under flags of the command's own: dotted
    /// key → (flag, value).
    pub fn config_with_flags(
        &self,
        flags: BTreeMap<String, (String, String)>,
    ) -> Result<Config, CommandError> {
        let config = self.unchecked(flags)?;
        check(&config.settings)?;
        Ok(config)
    }

    /// The effective configuration, to be looked at: what is wrong with it as a
    /// whole is not asked.
    pub fn unchecked(
        &self,
        flags: BTreeMap<String, (String, String)>,
    ) -> Result<Config, CommandError> {
        self.layered(recorded_settings(&self.home()?, self.project())?, flags)
    }

    fn layered(
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

    /// Clients under the effective settings, where the command may talk to each
    /// of these services.
    pub async fn servers(&self, uses: &[(&str, Need)]) -> Result<Connections, CommandError> {
        self.connections(&self.config()?, uses).await
    }

    /// The same under this configuration. Nothing is sent yet.
    pub async fn connections(
        &self,
        config: &Config,
        uses: &[(&str, Need)],
    ) -> Result<Connections, CommandError> {
        self.reach(config, uses).await?;
        Ok(Connections::of(&config.settings))
    }

    /// The project as it was brought up; none where it was not, and the operator
    /// has named all of its servers instead.
    pub async fn known(&self, config: &Config) -> Result<Option<State>, CommandError> {
        match reach::recorded(&self.site()?) {
            Ok(state) => Ok(Some(state)),
            Err(ReachError::NeverUp { .. }) => {
                let servers = of_pipeline(&config.settings, Need::Placed);
                self.reach(config, &servers).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses to talk to a server that is neither the project's nor named by
    /// the operator.
    async fn reach(&self, config: &Config, uses: &[(&str, Need)]) -> Result<(), CommandError> {
        Ok(reach::check(&self.site()?, config, uses).await?)
    }

    /// The project's defaults, whatever the file and the environment say.
    pub fn defaults(&self) -> Result<Config, CommandError> {
        let project = self.project().clone();
        Ok(load(&Layers {
            project,
            ..Layers::default()
        })?)
    }

    /// The configuration file, where there is one, whatever folder a process
    /// that reads it is in.
    fn config_path(&self) -> Option<PathBuf> {
        let named = self.global.config.clone();
        let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        path.canonicalize().ok()
    }

    fn config_file(&self) -> Result<Option<(PathBuf, String)>, ContextError> {
        let (path, named) = match &self.global.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(None),
            Err(source) => Err(ContextError::ConfigFile { path, source }),
        }
    }
}
