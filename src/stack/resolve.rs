//! From what services are to what they shall be here: each one's runtime,
//! ports and endpoint, out of the definitions, the configuration and what the
//! project recorded. Whether a port is free is asked here; nothing is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::Value as Json;

use super::{
    definition::{self, ContainerWay, Definition, DefinitionError, MAIN_PORT},
    endpoint,
    ports::{self, PortsError},
    state::State,
};
use crate::{
    config::{Config, Origin, Runtime, Settings},
    failure::{Failure, Kind},
    secret::SecretUrl,
    suggest::unknown,
};

/// A service as it shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub definition: Definition,
    pub runtime: Runtime,
    /// None for one that is external.
    pub ports: BTreeMap<String, u16>,
    /// Value of its endpoint's setting.
    pub endpoint: SecretUrl,
}

impl Service {
    /// The way that its container is run under these settings.
    #[must_use]
    pub fn container_way(&self, settings: &Settings) -> Option<&ContainerWay> {
        let wishes = settings.services.get(&self.definition.name);
        let image = wishes.and_then(|wishes| wishes.image.as_deref());
        self.definition.container_way(image)
    }
}

/// How ports are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortMode {
    /// The configured ones, taken or not.
    #[default]
    Fixed,
    /// Free ones, where none is configured.
    Auto,
}

/// What is known besides the definitions.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub config: &'a Config,
    pub state: Option<&'a State>,
    /// How services that say nothing else are run.
    pub runtime: Runtime,
    pub mode: PortMode,
    /// Services that run now: their recorded ports are theirs.
    pub running: &'a BTreeSet<String>,
    /// Ports of other projects.
    pub avoided: &'a BTreeSet<u16>,
    /// Makes a project tend to the same free ports.
    pub seed: &'a str,
}

/// Why services cannot be as configured.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("services.{name}: {}", unknown("service", name, known))]
    UnknownService { name: String, known: Vec<String> },
    #[error("services.{service}.ports.{name}: {}", unknown("port", name, known))]
    UnknownPort {
        service: String,
        name: String,
        known: Vec<String>,
    },
    #[error("services.{service}.ports.{name} is 0, which is no port")]
    NoPort { service: String, name: String },
    #[error("{key} is `{value}`, which has no host and port")]
    Endpoint { key: String, value: SecretUrl },
    #[error("{key} is on {host}, and {service} is run on this machine")]
    Elsewhere {
        key: String,
        host: String,
        service: String,
    },
    #[error("services.{service}.ports.main is {configured}, and {key} says {said}")]
    TwoPorts {
        service: String,
        configured: u16,
        key: String,
        said: u16,
    },
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("the settings do not take the endpoints")]
    Settings(#[from] serde_json::Error),
}

impl Failure for ResolveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Ports(error) => error.kind(),
            Self::Definition(error) => error.kind(),
            _ => Kind::Usage,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "unknown_service",
            Self::UnknownPort { .. } => "unknown_port",
            Self::NoPort { .. } => "config_value",
            Self::Endpoint { .. } | Self::Elsewhere { .. } | Self::TwoPorts { .. } => "endpoint",
            Self::Ports(error) => error.code(),
            Self::Definition(error) => error.code(),
            Self::Settings(_) => "config_value",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Elsewhere { service, .. } => {
                format!("in fanout.yaml: services: {{{service}: {{runtime: external}}}}")
            }
            Self::Ports(error) => return error.hint(),
            Self::Definition(error) => return error.hint(),
            _ => "fanout config show".to_owned(),
        })
    }
}

/// Whether the operator said where a server is, rather than fanout.
pub(super) fn is_explicit(origin: &Origin) -> bool {
    !matches!(
        origin,
        Origin::Default | Origin::Project | Origin::Port { .. }
    )
}

/// The configuration with every endpoint that nobody has set on the port that
/// `services.*.ports` gives its service: where `up` will put it. One that was
/// brought up stays where it is until `up` moves it.
///
/// # Errors
/// When the definitions do not hold together.
pub fn on_configured_ports(mut config: Config) -> Result<Config, ResolveError> {
    let mut moved = BTreeMap::new();
    for definition in definition::services()? {
        let wishes = config.settings.services.get(&definition.name);
        let port = wishes.and_then(|wishes| wishes.ports.get(MAIN_PORT));
        let (Some(port), Some(file)) = (port, file_of(&config, &definition.name)) else {
            continue;
        };
        let mut values = config.values.iter_mut();
        let value = values.find(|value| value.key == definition.endpoint);
        let Some(value) = value.filter(|value| value.origin == Origin::Default) else {
            continue;
        };
        let url = value.reveal().as_str().unwrap_or_default();
        let Some(url) = endpoint::with_port(url, *port) else {
            continue;
        };
        let origin = Origin::Port {
            file,
            service: definition.name,
        };
        value.set(Json::from(url.clone()), origin);
        moved.insert(definition.endpoint, SecretUrl::from(url));
    }
    config.settings = settings_with(&config.settings, &moved)?;
    Ok(config)
}

/// The file that says something of a service.
fn file_of(config: &Config, service: &str) -> Option<PathBuf> {
    let key = format!("services.{service}");
    let value = config.values.iter().find(|value| value.key == key)?;
    match &value.origin {
        Origin::File(path) => Some(path.clone()),
        _ => None,
    }
}

/// Resolves each of `definitions`.
///
/// # Errors
/// When the configuration contradicts itself or the definitions, or no port is
/// free under [`PortMode::Auto`].
pub fn resolve(
    definitions: &[Definition],
    known: &Known<'_>,
) -> Result<Vec<Service>, ResolveError> {
    let mut given: BTreeMap<u16, String> = BTreeMap::new();
    let mut services = Vec::with_capacity(definitions.len());
    for definition in definitions {
        services.push(service(definition, known, &mut given)?);
    }
    Ok(services)
}

/// Checks that `fanout.yaml` speaks of services that there are.
///
/// # Errors
/// Names the first that there is not.
pub fn check_names(definitions: &[Definition], settings: &Settings) -> Result<(), ResolveError> {
    for (name, wishes) in &settings.services {
        let Some(definition) = definitions.iter().find(|one| one.name == *name) else {
            return Err(ResolveError::UnknownService {
                name: name.clone(),
                known: definitions.iter().map(|one| one.name.clone()).collect(),
            });
        };
        let mut ports = wishes.ports.keys();
        if let Some(port) = ports.find(|port| !definition.ports.contains_key(*port)) {
            return Err(ResolveError::UnknownPort {
                service: name.clone(),
                name: port.clone(),
                known: definition.ports.keys().cloned().collect(),
            });
        }
        if let Some((port, _)) = wishes.ports.iter().find(|(_, port)| **port == 0) {
            return Err(ResolveError::NoPort {
                service: name.clone(),
                name: port.clone(),
            });
        }
    }
    Ok(())
}

fn service(
    definition: &Definition,
    known: &Known<'_>,
    given: &mut BTreeMap<u16, String>,
) -> Result<Service, ResolveError> {
    let name = &definition.name;
    let wishes = known.config.settings.services.get(name);
    let wished = wishes.and_then(|wishes| wishes.runtime);
    let runtime = definition.runtime(wished, known.runtime);
    let runtime = runtime.unwrap_or(known.runtime);
    let (value, said) = said_place(definition, known.config)?;
    let (ports, endpoint) = match runtime {
        Runtime::External => (BTreeMap::new(), value.into()),
        Runtime::Docker | Runtime::Native => {
            let said = said
                .map(|place| on_this_machine(definition, place))
                .transpose()?;
            let image = wishes.and_then(|wishes| wishes.image.as_deref());
            let way = definition.container_way(image);
            let published = way.filter(|_| runtime == Runtime::Docker);
            let is_wanted = |name: &str| published.is_none_or(|way| way.ports.contains_key(name));
            let ports = own_ports(definition, &is_wanted, said, known, given)?;
            let main = ports.get(MAIN_PORT).copied().unwrap_or_default();
            let endpoint = endpoint::with_port(&value, main).unwrap_or(value);
            (ports, endpoint.into())
        }
    };
    Ok(Service {
        definition: definition.clone(),
        runtime,
        ports,
        endpoint,
    })
}

/// The port of a place that the user set, for a server that runs here.
fn on_this_machine(
    definition: &Definition,
    (host, port): (String, u16),
) -> Result<u16, ResolveError> {
    if endpoint::is_loopback(&host) {
        return Ok(port);
    }
    Err(ResolveError::Elsewhere {
        key: definition.endpoint.clone(),
        host,
        service: definition.name.clone(),
    })
}

/// Every port of a service that runs here; `said` is what its endpoint's
/// setting says of the main one.
fn own_ports(
    definition: &Definition,
    is_wanted: &dyn Fn(&str) -> bool,
    said: Option<u16>,
    known: &Known<'_>,
    given: &mut BTreeMap<u16, String>,
) -> Result<BTreeMap<String, u16>, ResolveError> {
    let name = &definition.name;
    let wishes = known.config.settings.services.get(name);
    let mut ports = BTreeMap::new();
    for (port_name, default) in definition.ports.iter().filter(|(name, _)| is_wanted(name)) {
        let mut wish = wishes
            .and_then(|wishes| wishes.ports.get(port_name))
            .copied();
        if let (MAIN_PORT, Some(said)) = (port_name.as_str(), said) {
            wish = Some(agreed(definition, wish, said)?);
        }
        let port = match wish {
            Some(port) => port,
            None => own_choice(name, port_name, *default, known, given)?,
        };
        give(given, port, name)?;
        ports.insert(port_name.clone(), port);
    }
    Ok(ports)
}

/// The endpoint's value and, where the user set it, its host and port.
fn said_place(
    definition: &Definition,
    config: &Config,
) -> Result<(String, Option<(String, u16)>), ResolveError> {
    let key = &definition.endpoint;
    let found = config.values.iter().find(|value| value.key == *key);
    let value = found
        .and_then(|value| value.reveal().as_str())
        .unwrap_or_default();
    let place = endpoint::host_and_port(value).ok_or_else(|| ResolveError::Endpoint {
        key: key.clone(),
        value: value.into(),
    })?;
    let explicit = found.is_some_and(|value| is_explicit(&value.origin));
    Ok((value.to_owned(), explicit.then_some(place)))
}

fn agreed(definition: &Definition, wish: Option<u16>, said: u16) -> Result<u16, ResolveError> {
    match wish {
        Some(configured) if configured != said => Err(ResolveError::TwoPorts {
            service: definition.name.clone(),
            configured,
            key: definition.endpoint.clone(),
            said,
        }),
        _ => Ok(said),
    }
}

/// A port that nobody configured.
fn own_choice(
    service: &str,
    name: &str,
    default: u16,
    known: &Known<'_>,
    given: &BTreeMap<u16, String>,
) -> Result<u16, PortsError> {
    let recorded = known
        .state
        .and_then(|state| state.services.get(service)?.ports.get(name).copied());
    match (known.mode, recorded) {
        (_, Some(port)) if known.running.contains(service) => Ok(port),
        (PortMode::Fixed, recorded) => Ok(recorded.unwrap_or(default)),
        (PortMode::Auto, recorded) => {
            let avoided: BTreeSet<u16> =
                known.avoided.iter().chain(given.keys()).copied().collect();
            if let Some(port) = recorded.filter(|port| ports::is_free(*port)) {
                return Ok(port);
            }
            ports::choose(default, &avoided, known.seed)
        }
    }
}

fn give(given: &mut BTreeMap<u16, String>, port: u16, service: &str) -> Result<(), PortsError> {
    match given.insert(port, service.to_owned()) {
        Some(first) => Err(PortsError::GivenTwice {
            port,
            first,
            second: service.to_owned(),
        }),
        None => Ok(()),
    }
}

/// The settings with every service where it shall be.
///
/// # Errors
/// When an endpoint's key is no setting.
pub fn settings_with(
    settings: &Settings,
    endpoints: &BTreeMap<String, SecretUrl>,
) -> Result<Settings, ResolveError> {
    let mut tree = serde_json::to_value(settings)?;
    for (key, value) in endpoints {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(place) = tree.pointer_mut(&pointer) {
            *place = Json::from(value.reveal());
        }
    }
    Ok(serde_json::from_value(tree)?)
}
