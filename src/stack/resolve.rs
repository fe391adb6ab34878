//! Resolves each service's runtime, ports and endpoint from the definitions,
//! the configuration and the recorded state. Checks whether ports are free;
//! changes nothing.

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
    text::suggest::unknown,
};

/// A service with its resolved runtime, ports and endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub definition: Definition,
    pub runtime: Runtime,
    /// Ports by name; empty for an external service.
    pub ports: BTreeMap<String, u16>,
    /// Value of the service's endpoint setting.
    pub endpoint: SecretUrl,
}

impl Service {
    /// Returns the definition of the container for the configured image.
    #[must_use]
    pub fn container_way(&self, settings: &Settings) -> Option<&ContainerWay> {
        let overrides = settings.services.get(&self.definition.name);
        let image = overrides.and_then(|service| service.image.as_deref());
        self.definition.container_way(image)
    }
}

/// How ports are assigned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortMode {
    /// The configured or default ports, whether free or not.
    #[default]
    Fixed,
    /// A free port wherever none is configured.
    Auto,
}

/// Inputs besides the definitions.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub state: Option<&'a State>,
    /// Runtime of services without a configured one.
    pub runtime: Runtime,
    pub mode: PortMode,
    /// Running services, which keep their recorded ports.
    pub running: &'a BTreeSet<String>,
    /// Ports of other projects, which must not be chosen.
    pub reserved: &'a BTreeSet<u16>,
    /// Seed of the port choice, so that a project usually gets the same free
    /// ports.
    pub seed: &'a str,
}

/// Error in the configuration of services.
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
    #[error("services.{service}.ports.{name} is 0, which is not a valid port")]
    InvalidPort { service: String, name: String },
    #[error("{key} is `{value}`, which has no host and port")]
    Endpoint { key: String, value: SecretUrl },
    #[error("{key} is on {host}, but {service} runs on this machine")]
    RemoteHost {
        key: String,
        host: String,
        service: String,
    },
    #[error("services.{service}.ports.main is {configured}, but {key} has port {endpoint_port}")]
    PortConflict {
        service: String,
        configured: u16,
        key: String,
        endpoint_port: u16,
    },
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("cannot put the endpoints into the settings")]
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
            Self::InvalidPort { .. } => "config_value",
            Self::Endpoint { .. } | Self::RemoteHost { .. } | Self::PortConflict { .. } => {
                "endpoint"
            }
            Self::Ports(error) => error.code(),
            Self::Definition(error) => error.code(),
            Self::Settings(_) => "config_value",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::RemoteHost { service, .. } => {
                format!("in fanout.yaml: services: {{{service}: {{runtime: external}}}}")
            }
            Self::Ports(error) => return error.hint(),
            Self::Definition(error) => return error.hint(),
            _ => "fanout config show".to_owned(),
        })
    }
}

/// Returns whether the operator set this value, rather than fanout.
pub(super) fn is_explicit(origin: &Origin) -> bool {
    !matches!(
        origin,
        Origin::Default | Origin::Project | Origin::Port { .. }
    )
}

/// Moves every endpoint that has its default value to the port in
/// `services.*.ports`, where `up` will start its service. A service that was
/// started already keeps its port until `up` moves it.
///
/// # Errors
/// If the definitions are invalid.
pub fn on_configured_ports(mut config: Config) -> Result<Config, ResolveError> {
    let mut moved = BTreeMap::new();
    for definition in definition::services()? {
        let overrides = config.settings.services.get(&definition.name);
        let port = overrides.and_then(|service| service.ports.get(MAIN_PORT));
        let (Some(port), Some(file)) = (port, config_file(&config, &definition.name)) else {
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

/// Returns the file that configures a service.
fn config_file(config: &Config, service: &str) -> Option<PathBuf> {
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
/// If the configuration contradicts itself or the definitions, or no port is
/// free under [`PortMode::Auto`].
pub fn resolve(
    definitions: &[Definition],
    inputs: &Inputs<'_>,
) -> Result<Vec<Service>, ResolveError> {
    let mut assigned: BTreeMap<u16, String> = BTreeMap::new();
    let mut services = Vec::with_capacity(definitions.len());
    for definition in definitions {
        services.push(service(definition, inputs, &mut assigned)?);
    }
    Ok(services)
}

/// Checks that `fanout.yaml` names only known services and ports.
///
/// # Errors
/// Returns the first unknown name or invalid port.
pub fn check_names(definitions: &[Definition], settings: &Settings) -> Result<(), ResolveError> {
    for (name, overrides) in &settings.services {
        let Some(definition) = definitions
            .iter()
            .find(|definition| definition.name == *name)
        else {
            return Err(ResolveError::UnknownService {
                name: name.clone(),
                known: definitions
                    .iter()
                    .map(|definition| definition.name.clone())
                    .collect(),
            });
        };
        let mut ports = overrides.ports.keys();
        if let Some(port) = ports.find(|port| !definition.ports.contains_key(*port)) {
            return Err(ResolveError::UnknownPort {
                service: name.clone(),
                name: port.clone(),
                known: definition.ports.keys().cloned().collect(),
            });
        }
        if let Some((port, _)) = overrides.ports.iter().find(|(_, port)| **port == 0) {
            return Err(ResolveError::InvalidPort {
                service: name.clone(),
                name: port.clone(),
            });
        }
    }
    Ok(())
}

fn service(
    definition: &Definition,
    inputs: &Inputs<'_>,
    assigned: &mut BTreeMap<u16, String>,
) -> Result<Service, ResolveError> {
    let name = &definition.name;
    let overrides = inputs.config.settings.services.get(name);
    let configured_runtime = overrides.and_then(|service| service.runtime);
    let runtime = definition.runtime(configured_runtime, inputs.runtime);
    let runtime = runtime.unwrap_or(inputs.runtime);
    let (value, configured) = configured_address(definition, inputs.config)?;
    let (ports, endpoint) = match runtime {
        Runtime::External => (BTreeMap::new(), value.into()),
        Runtime::Docker | Runtime::Native => {
            let endpoint_port = configured
                .map(|address| local_port(definition, address))
                .transpose()?;
            let image = overrides.and_then(|service| service.image.as_deref());
            let way = definition.container_way(image);
            let published = way.filter(|_| runtime == Runtime::Docker);
            let is_wanted = |name: &str| published.is_none_or(|way| way.ports.contains_key(name));
            let ports = assign_ports(definition, &is_wanted, endpoint_port, inputs, assigned)?;
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

/// Returns the port of a configured address of a server that runs on this
/// machine.
fn local_port(definition: &Definition, (host, port): (String, u16)) -> Result<u16, ResolveError> {
    if endpoint::is_loopback(&host) {
        return Ok(port);
    }
    Err(ResolveError::RemoteHost {
        key: definition.endpoint.clone(),
        host,
        service: definition.name.clone(),
    })
}

/// Assigns every port of a service that runs on this machine. `endpoint_port`
/// is the port that the operator set in the endpoint.
fn assign_ports(
    definition: &Definition,
    is_wanted: &dyn Fn(&str) -> bool,
    endpoint_port: Option<u16>,
    inputs: &Inputs<'_>,
    assigned: &mut BTreeMap<u16, String>,
) -> Result<BTreeMap<String, u16>, ResolveError> {
    let name = &definition.name;
    let overrides = inputs.config.settings.services.get(name);
    let mut ports = BTreeMap::new();
    for (port_name, default) in definition.ports.iter().filter(|(name, _)| is_wanted(name)) {
        let mut configured = overrides
            .and_then(|service| service.ports.get(port_name))
            .copied();
        if let (MAIN_PORT, Some(endpoint_port)) = (port_name.as_str(), endpoint_port) {
            configured = Some(check_same(definition, configured, endpoint_port)?);
        }
        let port = match configured {
            Some(port) => port,
            None => choose_port(name, port_name, *default, inputs, assigned)?,
        };
        reserve(assigned, port, name)?;
        ports.insert(port_name.clone(), port);
    }
    Ok(ports)
}

/// Returns the endpoint's value and, if the operator set it, its host and port.
fn configured_address(
    definition: &Definition,
    config: &Config,
) -> Result<(String, Option<(String, u16)>), ResolveError> {
    let key = &definition.endpoint;
    let found = config.values.iter().find(|value| value.key == *key);
    let value = found
        .and_then(|value| value.reveal().as_str())
        .unwrap_or_default();
    let address = endpoint::host_and_port(value).ok_or_else(|| ResolveError::Endpoint {
        key: key.clone(),
        value: value.into(),
    })?;
    let explicit = found.is_some_and(|value| is_explicit(&value.origin));
    Ok((value.to_owned(), explicit.then_some(address)))
}

fn check_same(
    definition: &Definition,
    configured: Option<u16>,
    endpoint_port: u16,
) -> Result<u16, ResolveError> {
    match configured {
        Some(configured) if configured != endpoint_port => Err(ResolveError::PortConflict {
            service: definition.name.clone(),
            configured,
            key: definition.endpoint.clone(),
            endpoint_port,
        }),
        _ => Ok(endpoint_port),
    }
}

/// Chooses a port that is not configured.
fn choose_port(
    service: &str,
    name: &str,
    default: u16,
    inputs: &Inputs<'_>,
    assigned: &BTreeMap<u16, String>,
) -> Result<u16, PortsError> {
    let recorded = inputs
        .state
        .and_then(|state| state.services.get(service)?.ports.get(name).copied());
    match (inputs.mode, recorded) {
        (_, Some(port)) if inputs.running.contains(service) => Ok(port),
        (PortMode::Fixed, recorded) => Ok(recorded.unwrap_or(default)),
        (PortMode::Auto, recorded) => {
            let reserved: BTreeSet<u16> = inputs
                .reserved
                .iter()
                .chain(assigned.keys())
                .copied()
                .collect();
            if let Some(port) = recorded.filter(|port| ports::is_free(*port)) {
                return Ok(port);
            }
            ports::choose(default, &reserved, inputs.seed)
        }
    }
}

fn reserve(
    assigned: &mut BTreeMap<u16, String>,
    port: u16,
    service: &str,
) -> Result<(), PortsError> {
    match assigned.insert(port, service.to_owned()) {
        Some(first) => Err(PortsError::Duplicate {
            port,
            first,
            second: service.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Returns the settings with the resolved endpoints.
///
/// # Errors
/// If an endpoint's key is not a setting.
pub fn settings_with(
    settings: &Settings,
    endpoints: &BTreeMap<String, SecretUrl>,
) -> Result<Settings, ResolveError> {
    let mut tree = serde_json::to_value(settings)?;
    for (key, value) in endpoints {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(setting) = tree.pointer_mut(&pointer) {
            *setting = Json::from(value.reveal());
        }
    }
    Ok(serde_json::from_value(tree)?)
}
