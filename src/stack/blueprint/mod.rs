//! Everything that `up` determines before it changes anything: the ordered
//! services, how each is run, and the plan. [`super::preflight`] checks whether
//! the plan can be carried out.

pub(super) mod options;

use std::collections::{BTreeMap, BTreeSet};

pub use options::UpOptions;

use super::{
    Site, State,
    choice::{self, RuntimeChoice},
    definition::{self, Definition, Install},
    docker::{
        container_spec as container,
        engine::Container,
        engine_state::EngineState,
        labels::{self, ResourceLabels},
    },
    native::{
        install, process,
        process_spec::{ProcessSpec, process_spec},
        render_context::RenderContext,
    },
    plan::{self, Action, Desired, Observed, Plan, Recreate},
    resolve::{self, Inputs, Service},
    selection::{definitions, of_runtime, select},
    state::{ServiceState, ports_of_others},
};
use crate::{
    config::{Config, Runtime, Settings},
    failure::Error,
    secret::SecretUrl,
};

/// Setting with the address under which Connect reaches Postgres.
const CONNECT_ADDRESS: &str = "postgres.connect_address";

/// The intended state of a project, and the steps towards it.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Services, ordered by their dependencies.
    pub services: Vec<Service>,
    /// Specs of the services that run as processes, by name.
    pub processes: BTreeMap<String, ProcessSpec>,
    /// Specs of the services that run as containers, by name.
    pub containers: BTreeMap<String, container::ContainerSpec>,
    /// Existing containers, volumes and images of the project.
    pub engine_state: Option<EngineState>,
    /// Reason for the runtime of a new project, if none was requested.
    pub runtime_reason: Option<String>,
    pub plan: Plan,
    /// Settings with the resolved endpoint of every service.
    pub settings: Settings,
    pub installs: BTreeMap<String, Install>,
    /// Whether existing installs are recreated.
    pub reinstall: bool,
    /// State to record before anything changes.
    pub state: State,
}

/// Plans an `up`. Inspects processes, containers, ports and programs, and
/// changes nothing.
///
/// # Errors
/// If the options or the configuration are invalid, no engine responds although
/// containers are planned, or a container's name is used by something else.
pub async fn plan_up(
    site: &Site,
    config: &Config,
    options: &UpOptions,
) -> Result<Blueprint, Error> {
    let dir = site.dir();
    let recorded = State::load(&dir)?;
    let chosen = choice::choose(site, recorded.as_ref(), options.runtime).await?;
    let all = definitions()?;
    resolve::check_names(&all, &config.settings)?;
    let all = of_runtime(&all, &config.settings, chosen.runtime);
    let selected = select(&all, &config.settings.pipeline.sinks, options)?;
    let mut engine_state =
        inspect_engine(site, config, &selected, &chosen, recorded.as_ref()).await?;
    let running = running(site, &all, engine_state.as_ref());
    let inputs = Inputs {
        config,
        state: recorded.as_ref(),
        runtime: chosen.runtime,
        mode: options.ports,
        running: &running,
        reserved: &ports_of_others(&site.home, &site.project),
        seed: &dir.path().to_string_lossy(),
    };
    let services = resolve::resolve(&selected, &inputs)?;
    let endpoints = endpoints(config, &services);
    let settings = resolve::settings_with(&config.settings, &endpoints)?;
    let mut state = recorded.unwrap_or_else(|| State::new(&site.project, chosen.runtime));
    let installs = definition::installs()?;
    let context = RenderContext {
        site,
        settings: &settings,
        installs: &installs,
    };
    let processes = processes(&services, &state, &context)?;
    let containers = containers(site, &settings, &services)?;
    if let Some(engine_state) = &mut engine_state {
        engine_state
            .inspect_resources(&ResourceLabels::new(site), containers.values())
            .await?;
        state.set_engine(&engine_state.engine.address);
    }
    let mut blueprint = Blueprint {
        services,
        processes,
        containers,
        engine_state,
        runtime_reason: chosen.reason,
        plan: Plan::default(),
        settings,
        installs,
        reinstall: options.reinstall,
        state,
    };
    blueprint.plan = make_plan(site, &blueprint, options.recreate)?;
    blueprint.record(endpoints);
    Ok(blueprint)
}

/// Inspects the project's containers, if it has any.
async fn inspect_engine(
    site: &Site,
    config: &Config,
    selected: &[Definition],
    chosen: &RuntimeChoice,
    recorded: Option<&State>,
) -> Result<Option<EngineState>, Error> {
    let is_container = |service: &&Definition| {
        let overrides = config.settings.services.get(&service.name);
        let configured = overrides.and_then(|service| service.runtime);
        service.runtime(configured, chosen.runtime) == Some(Runtime::Docker)
    };
    let names: Vec<&str> = selected
        .iter()
        .filter(is_container)
        .map(|service| service.name.as_str())
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let engine = match &chosen.engine {
        Some(engine) => engine.clone(),
        None => choice::engine(site, recorded).await?,
    };
    Ok(Some(
        EngineState::inspect(engine, &ResourceLabels::new(site), names).await?,
    ))
}

fn running(
    site: &Site,
    all: &[Definition],
    engine_state: Option<&EngineState>,
) -> BTreeSet<String> {
    let dir = site.dir();
    let runs = |name: &str| {
        process::running(&dir, name).is_some()
            || engine_state.is_some_and(|engine_state| engine_state.running(name).is_some())
    };
    let names = all.iter().map(|service| &service.name);
    names.filter(|name| runs(name)).cloned().collect()
}

/// Returns the endpoint of every service, by its setting.
fn endpoints(config: &Config, services: &[Service]) -> BTreeMap<String, SecretUrl> {
    let entry = |service: &Service| {
        (
            service.definition.endpoint.clone(),
            service.endpoint.clone(),
        )
    };
    let mut endpoints: BTreeMap<String, SecretUrl> = services.iter().map(entry).collect();
    // Connect in a container reaches a Postgres container under its network
    // name.
    let way = |name: &str| {
        let mut services = services.iter();
        let service = services.find(|service| service.definition.name == name)?;
        let in_container = service.runtime == Runtime::Docker;
        in_container.then(|| service.container_way(&config.settings))?
    };
    let address = config
        .values
        .iter()
        .find(|value| value.key == CONNECT_ADDRESS);
    let is_explicit = address.is_some_and(|value| resolve::is_explicit(&value.origin));
    if let (Some(postgres), Some(_), false) = (way("postgres"), way("connect"), is_explicit)
        && let Some(inside) = &postgres.inside
    {
        endpoints.insert(CONNECT_ADDRESS.to_owned(), inside.as_str().into());
    }
    endpoints
}

fn processes(
    services: &[Service],
    state: &State,
    context: &RenderContext<'_>,
) -> Result<BTreeMap<String, ProcessSpec>, Error> {
    let mut processes = BTreeMap::new();
    for service in services
        .iter()
        .filter(|service| service.runtime == Runtime::Native)
    {
        let name = &service.definition.name;
        let recorded = state
            .services
            .get(name)
            .and_then(|service| service.variant.as_deref());
        processes.insert(name.clone(), process_spec(service, recorded, context)?);
    }
    Ok(processes)
}

fn containers(
    site: &Site,
    settings: &Settings,
    services: &[Service],
) -> Result<BTreeMap<String, container::ContainerSpec>, Error> {
    let context = container::RenderContext {
        site,
        settings,
        services,
    };
    let in_containers = services
        .iter()
        .filter(|service| service.runtime == Runtime::Docker);
    in_containers
        .map(|service| {
            let name = service.definition.name.clone();
            Ok((name, container::container_spec(service, &context)?))
        })
        .collect()
}

fn make_plan(site: &Site, blueprint: &Blueprint, recreate: Recreate) -> Result<Plan, Error> {
    let mut desired = Vec::with_capacity(blueprint.services.len());
    let mut observed = BTreeMap::new();
    for service in &blueprint.services {
        let name = &service.definition.name;
        let needs = service.definition.needs.iter();
        let process = blueprint.processes.get(name).map(|spec| &spec.fingerprint);
        let container = blueprint.containers.get(name).map(|spec| &spec.fingerprint);
        desired.push(Desired {
            name: name.clone(),
            runtime: service.runtime,
            needs: needs
                .filter(|need| blueprint.service(need).is_some())
                .cloned()
                .collect(),
            fingerprint: process.or(container).cloned().unwrap_or_default(),
        });
        observed.insert(name.clone(), blueprint.observed(site, name));
    }
    plan::plan(&desired, &observed, recreate)
}

impl Blueprint {
    /// Returns the current state of a service.
    fn observed(&self, site: &Site, name: &str) -> Observed {
        if let (Some(spec), Some(engine_state)) = (self.containers.get(name), &self.engine_state) {
            let container = engine_state.containers.get(name);
            let fingerprint = container.map(|found| labels::fingerprint(&found.labels));
            let is_running = container.is_some_and(Container::is_running);
            let (running, stopped) = if is_running {
                (fingerprint, None)
            } else {
                (None, fingerprint)
            };
            let has_data = spec
                .volumes
                .keys()
                .any(|name| engine_state.volumes.contains(name));
            return Observed {
                exists: container.is_some() || has_data,
                running,
                stopped,
            };
        }
        let spec = self.processes.get(name);
        Observed {
            exists: spec.is_some_and(|spec| spec.data.exists()),
            running: process::running(&site.dir(), name).map(|record| record.fingerprint),
            stopped: None,
        }
    }

    fn record(&mut self, endpoints: BTreeMap<String, SecretUrl>) {
        self.state.settings.extend(endpoints);
        for service in &self.services {
            let name = &service.definition.name;
            let process = self.processes.get(name).map(|spec| &spec.way.variant);
            let container = self.containers.get(name).map(|spec| &spec.way.variant);
            let service_state = ServiceState {
                runtime: service.runtime,
                variant: process.or(container).cloned(),
                ports: service.ports.clone(),
            };
            self.state.services.insert(name.clone(), service_state);
        }
    }

    /// Returns the containers that will be started or recreated.
    pub fn containers_to_start(
        &self,
    ) -> impl Iterator<Item = (&Service, &container::ContainerSpec)> {
        let steps = self.plan.steps.iter();
        steps
            .filter(|step| step.action != Action::Keep)
            .filter_map(|step| {
                let spec = self.containers.get(&step.service)?;
                Some((self.service(&step.service)?, spec))
            })
    }

    /// Returns the missing images of these containers.
    #[must_use]
    pub fn missing_images(&self) -> BTreeSet<&str> {
        let missing = self
            .engine_state
            .iter()
            .flat_map(|engine_state| &engine_state.missing_images);
        let missing: BTreeSet<&str> = missing.map(String::as_str).collect();
        let required = self.containers_to_start();
        required
            .map(|(_, spec)| spec.container.image.as_str())
            .filter(|image| missing.contains(image))
            .collect()
    }

    /// Returns the service with this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.definition.name == name)
    }

    /// Returns the processes that will be started or restarted.
    pub fn to_start(&self) -> impl Iterator<Item = (&Service, &ProcessSpec)> {
        self.plan
            .steps
            .iter()
            .filter(|step| step.action != Action::Keep)
            .filter_map(|step| {
                Some((
                    self.service(&step.service)?,
                    self.processes.get(&step.service)?,
                ))
            })
    }

    /// Returns the installs that are missing or will be recreated: name and
    /// description.
    pub fn missing_installs(&self, site: &Site) -> Vec<(&String, &Install)> {
        let required: BTreeSet<&String> = self
            .to_start()
            .flat_map(|(_, spec)| &spec.way.installs)
            .collect();
        required
            .into_iter()
            .filter_map(|name| self.installs.get_key_value(name))
            .filter(|(_, install_definition)| {
                self.reinstall || !install::is_installed(site, install_definition)
            })
            .collect()
    }
}
