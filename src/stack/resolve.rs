//! Resolves each service's runtime, ports and endpoint from the definitions,
//! the configuration and the recorded state. Checks whether ports are free;
//! changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::Value as Json;

use super::{
    definition::{self, ContainerWay, Definition, MAIN_PORT},
    endpoint, ports,
    state::State,
};
use crate::{
    config::{Config, Origin, Runtime, Settings},
    failure::{Command, Error, Kind},
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

/// Returns the error for a configuration that contradicts itself or the
/// definitions.
fn refused(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, code, message).with_hint(Command::new("config show"))
}

fn unreadable_settings(error: serde_json::Error) -> Error {
    refused("config_value", "cannot put the endpoints into the settings").caused_by(error)
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
pub fn on_configured_ports(mut config: Config) -> Result<Config, Error> {
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
pub fn resolve(definitions: &[Definition], inputs: &Inputs<'_>) -> Result<Vec<Service>, Error> {
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
pub fn check_names(definitions: &[Definition], settings: &Settings) -> Result<(), Error> {
    for (name, overrides) in &settings.services {
        let Some(definition) = definitions
            .iter()
            .find(|definition| definition.name == *name)
        else {
            let known = definitions.iter();
            let known: Vec<String> = known.map(|definition| definition.name.clone()).collect();
            let problem = unknown("service", name, &known);
            return Err(refused(
                "unknown_service",
                format!("services.{name}: {problem}"),
            ));
        };
        let mut ports = overrides.ports.keys();
        if let Some(port) = ports.find(|port| !definition.ports.contains_key(*port)) {
            let known: Vec<String> = definition.ports.keys().cloned().collect();
            let problem = unknown("port", port, &known);
            return Err(refused(
                "unknown_port",
                format!("services.{name}.ports.{port}: {problem}"),
            ));
        }
        if let Some((port, _)) = overrides.ports.iter().find(|(_, port)| **port == 0) {
            return Err(refused(
                "config_value",
                format!("services.{name}.ports.{port} is 0, which is not a valid port"),
            ));
        }
    }
    Ok(())
}

fn service(
    definition: &Definition,
    inputs: &Inputs<'_>,
    assigned: &mut BTreeMap<u16, String>,
) -> Result<Service, Error> {
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
fn local_port(definition: &Definition, (host, port): (String, u16)) -> Result<u16, Error> {
    if endpoint::is_loopback(&host) {
        return Ok(port);
    }
    let (key, service) = (&definition.endpoint, &definition.name);
    let message = format!("{key} is on {host}, but {service} runs on this machine");
    let hint = format!("in fanout.yaml: services: {{{service}: {{runtime: external}}}}");
    Err(Error::new(Kind::Usage, "endpoint", message).with_hint(hint))
}

/// Assigns every port of a service that runs on this machine. `endpoint_port`
/// is the port that the operator set in the endpoint.
fn assign_ports(
    definition: &Definition,
    is_wanted: &dyn Fn(&str) -> bool,
    endpoint_port: Option<u16>,
    inputs: &Inputs<'_>,
    assigned: &mut BTreeMap<u16, String>,
) -> Result<BTreeMap<String, u16>, Error> {
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
) -> Result<(String, Option<(String, u16)>), Error> {
    let key = &definition.endpoint;
    let found = config.values.iter().find(|value| value.key == *key);
    let value = found
        .and_then(|value| value.reveal().as_str())
        .unwrap_or_default();
    let address = endpoint::host_and_port(value).ok_or_else(|| {
        // The displayed URL has no password.
        let url = SecretUrl::from(value);
        refused(
            "endpoint",
            format!("{key} is `{url}`, which has no host and port"),
        )
    })?;
    let explicit = found.is_some_and(|value| is_explicit(&value.origin));
    Ok((value.to_owned(), explicit.then_some(address)))
}

fn check_same(
    definition: &Definition,
    configured: Option<u16>,
    endpoint_port: u16,
) -> Result<u16, Error> {
    match configured {
        Some(configured) if configured != endpoint_port => {
            let (key, service) = (&definition.endpoint, &definition.name);
            Err(refused(
                "endpoint",
                format!(
                    "services.{service}.ports.main is {configured}, but {key} has port \
                     {endpoint_port}"
                ),
            ))
        }
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
) -> Result<u16, Error> {
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

fn reserve(assigned: &mut BTreeMap<u16, String>, port: u16, service: &str) -> Result<(), Error> {
    match assigned.insert(port, service.to_owned()) {
        Some(first) => Err(refused(
            "port_given_twice",
            format!("port {port} is assigned to both {first} and {service}"),
        )),
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
) -> Result<Settings, Error> {
    let mut tree = serde_json::to_value(settings).map_err(unreadable_settings)?;
    for (key, value) in endpoints {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(setting) = tree.pointer_mut(&pointer) {
            *setting = Json::from(value.reveal());
        }
    }
    serde_json::from_value(tree).map_err(unreadable_settings)
}
