//! All that `up` knows before it changes anything: the services in order, how
//! each is run, and the plan. What stands in its way is asked by
//! [`super::preflight`].

pub(super) mod error;
pub(super) mod wishes;

use std::collections::{BTreeMap, BTreeSet};

pub use error::BlueprintError;
pub use wishes::Wishes;

use super::{
    Site, State,
    choice::{self, Chosen},
    definition::{self, Definition, Install},
    docker::{
        owner::{self, Owner},
        recipe as container,
        world::World,
    },
    native::{
        install,
        kitchen::Kitchen,
        process,
        recipe::{Recipe, RecipeError, recipe},
    },
    resolve::{self, Known, Service},
    selection::{definitions, of_runtime, select},
    state::{ServiceState, ports_of_others},
};
use crate::{
    clients::docker::Container,
    config::{Config, Runtime, Settings},
    plan::{self, Action, Desired, Observed, Plan, PlanError, Recreate},
    secret::SecretUrl,
};

/// The setting that says where Connect finds Postgres.
const CONNECT_ADDRESS: &str = "postgres.connect_address";

/// What is going to be.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Each after all that it needs.
    pub services: Vec<Service>,
    /// How the native ones are run.
    pub recipes: BTreeMap<String, Recipe>,
    /// How those in containers are.
    pub containers: BTreeMap<String, container::Recipe>,
    /// What their engine has of them.
    pub world: Option<World>,
    /// Why a new project is run as it is, where nobody has said.
    pub because: Option<String>,
    pub plan: Plan,
    /// With every service where it shall be.
    pub settings: Settings,
    pub installs: BTreeMap<String, Install>,
    /// Those that are there are made anew.
    pub reinstall: bool,
    /// To be recorded before anything changes.
    pub state: State,
}

/// Draws the blueprint. Looks at processes, containers, ports and programs, and
/// changes nothing.
///
/// # Errors
/// When the wishes or the configuration are wrong, no engine answers where
/// there are to be containers, or something else is in a container's place.
pub async fn draw(
    site: &Site,
    config: &Config,
    wishes: &Wishes,
) -> Result<Blueprint, BlueprintError> {
    let dir = site.dir();
    let recorded = State::load(&dir)?;
    let chosen = choice::choose(site, recorded.as_ref(), wishes.runtime).await?;
    let all = definitions()?;
    resolve::check_names(&all, &config.settings)?;
    let all = of_runtime(&all, &config.settings, chosen.runtime);
    let selected = select(&all, &config.settings.pipeline.sinks, wishes)?;
    let mut world = look(site, config, &selected, &chosen, recorded.as_ref()).await?;
    let running = running(site, &all, world.as_ref());
    let known = Known {
        config,
        state: recorded.as_ref(),
        runtime: chosen.runtime,
        mode: wishes.ports,
        running: &running,
        avoided: &ports_of_others(&site.home, &site.project),
        seed: &dir.path().to_string_lossy(),
    };
    let services = resolve::resolve(&selected, &known)?;
    let endpoints = endpoints(config, &services);
    let settings = resolve::settings_with(&config.settings, &endpoints)?;
    let mut state = recorded.unwrap_or_else(|| State::new(&site.project, chosen.runtime));
    let installs = definition::installs()?;
    let kitchen = Kitchen {
        site,
        settings: &settings,
        installs: &installs,
    };
    let recipes = recipes(&services, &state, &kitchen)?;
    let containers = containers(site, &settings, &services)?;
    if let Some(world) = &mut world {
        world
            .look_for(&Owner::of(site), containers.values())
            .await?;
        state.set_engine(&world.engine.address);
    }
    let mut blueprint = Blueprint {
        services,
        recipes,
        containers,
        world,
        because: chosen.because,
        plan: Plan::default(),
        settings,
        installs,
        reinstall: wishes.reinstall,
        state,
    };
    blueprint.plan = make_plan(site, &blueprint, wishes.recreate)?;
    blueprint.record(endpoints);
    Ok(blueprint)
}

/// Where the project has containers, the engine and those that are there.
async fn look(
    site: &Site,
    config: &Config,
    selected: &[Definition],
    chosen: &Chosen,
    recorded: Option<&State>,
) -> Result<Option<World>, BlueprintError> {
    let is_container = |one: &&Definition| {
        let wishes = config.settings.services.get(&one.name);
        let wished = wishes.and_then(|wishes| wishes.runtime);
        one.runtime(wished, chosen.runtime) == Some(Runtime::Docker)
    };
    let names: Vec<&str> = selected
        .iter()
        .filter(is_container)
        .map(|one| one.name.as_str())
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let engine = match &chosen.engine {
        Some(engine) => engine.clone(),
        None => choice::engine(site, recorded).await?,
    };
    Ok(Some(World::look(engine, &Owner::of(site), names).await?))
}

fn running(site: &Site, all: &[Definition], world: Option<&World>) -> BTreeSet<String> {
    let dir = site.dir();
    let runs = |name: &str| {
        process::running(&dir, name).is_some()
            || world.is_some_and(|world| world.running(name).is_some())
    };
    let names = all.iter().map(|one| &one.name);
    names.filter(|name| runs(name)).cloned().collect()
}

/// Where every service is, by the setting that says so.
fn endpoints(config: &Config, services: &[Service]) -> BTreeMap<String, SecretUrl> {
    let of = |service: &Service| {
        (
            service.definition.endpoint.clone(),
            service.endpoint.clone(),
        )
    };
    let mut endpoints: BTreeMap<String, SecretUrl> = services.iter().map(of).collect();
    // A Connect in a container finds Postgres by its name there.
    let way = |name: &str| {
        let mut services = services.iter();
        let service = services.find(|one| one.definition.name == name)?;
        let in_container = service.runtime == Runtime::Docker;
        in_container.then(|| service.container_way(&config.settings))?
    };
    let found = config.values.iter().find(|one| one.key == CONNECT_ADDRESS);
    let is_said = found.is_some_and(|value| resolve::is_explicit(&value.origin));
    if let (Some(postgres), Some(_), false) = (way("postgres"), way("connect"), is_said)
        && let Some(inside) = &postgres.inside
    {
        endpoints.insert(CONNECT_ADDRESS.to_owned(), inside.as_str().into());
    }
    endpoints
}

fn recipes(
    services: &[Service],
    state: &State,
    kitchen: &Kitchen<'_>,
) -> Result<BTreeMap<String, Recipe>, RecipeError> {
    let mut recipes = BTreeMap::new();
    for service in services.iter().filter(|one| one.runtime == Runtime::Native) {
        let name = &service.definition.name;
        let recorded = state
            .services
            .get(name)
            .and_then(|known| known.variant.as_deref());
        recipes.insert(name.clone(), recipe(service, recorded, kitchen)?);
    }
    Ok(recipes)
}

fn containers(
    site: &Site,
    settings: &Settings,
    services: &[Service],
) -> Result<BTreeMap<String, container::Recipe>, container::RecipeError> {
    let kitchen = container::Kitchen {
        site,
        settings,
        services,
    };
    let in_containers = services.iter().filter(|one| one.runtime == Runtime::Docker);
    in_containers
        .map(|service| {
            let name = service.definition.name.clone();
            Ok((name, container::recipe(service, &kitchen)?))
        })
        .collect()
}

fn make_plan(site: &Site, blueprint: &Blueprint, recreate: Recreate) -> Result<Plan, PlanError> {
    let mut desired = Vec::with_capacity(blueprint.services.len());
    let mut observed = BTreeMap::new();
    for service in &blueprint.services {
        let name = &service.definition.name;
        let needs = service.definition.needs.iter();
        let process = blueprint.recipes.get(name).map(|one| &one.fingerprint);
        let container = blueprint.containers.get(name).map(|one| &one.fingerprint);
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
    /// A service as it is now.
    fn observed(&self, site: &Site, name: &str) -> Observed {
        if let (Some(recipe), Some(world)) = (self.containers.get(name), &self.world) {
            let found = world.containers.get(name);
            let made = found.map(|found| owner::fingerprint(&found.labels));
            let runs = found.is_some_and(Container::is_running);
            let (running, resting) = if runs { (made, None) } else { (None, made) };
            let has_data = recipe.volumes.keys().any(|one| world.volumes.contains(one));
            return Observed {
                exists: found.is_some() || has_data,
                running,
                resting,
            };
        }
        let recipe = self.recipes.get(name);
        Observed {
            exists: recipe.is_some_and(|recipe| recipe.data.exists()),
            running: process::running(&site.dir(), name).map(|record| record.fingerprint),
            resting: None,
        }
    }

    fn record(&mut self, endpoints: BTreeMap<String, SecretUrl>) {
        self.state.settings.extend(endpoints);
        for service in &self.services {
            let name = &service.definition.name;
            let process = self.recipes.get(name).map(|recipe| &recipe.way.variant);
            let container = self.containers.get(name).map(|recipe| &recipe.way.variant);
            let known = ServiceState {
                runtime: service.runtime,
                variant: process.or(container).cloned(),
                ports: service.ports.clone(),
            };
            self.state.services.insert(name.clone(), known);
        }
    }

    /// The containers that are to be started, now or anew.
    pub fn containers_to_start(&self) -> impl Iterator<Item = (&Service, &container::Recipe)> {
        let steps = self.plan.steps.iter();
        steps
            .filter(|step| step.action != Action::Keep)
            .filter_map(|step| {
                let recipe = self.containers.get(&step.service)?;
                Some((self.service(&step.service)?, recipe))
            })
    }

    /// Images that are wanted and not there.
    #[must_use]
    pub fn missing_images(&self) -> BTreeSet<&str> {
        let missing = self.world.iter().flat_map(|world| &world.missing_images);
        let missing: BTreeSet<&str> = missing.map(String::as_str).collect();
        let wanted = self.containers_to_start();
        wanted
            .map(|(_, recipe)| recipe.container.image.as_str())
            .filter(|image| missing.contains(image))
            .collect()
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|one| one.definition.name == name)
    }

    /// What is to be started, now or anew.
    pub fn to_start(&self) -> impl Iterator<Item = (&Service, &Recipe)> {
        self.plan
            .steps
            .iter()
            .filter(|step| step.action != Action::Keep)
            .filter_map(|step| {
                Some((
                    self.service(&step.service)?,
                    self.recipes.get(&step.service)?,
                ))
            })
    }

    /// The installs that are wanted and not there, or to be made anew: name and
    /// description.
    pub fn missing_installs(&self, site: &Site) -> Vec<(&String, &Install)> {
        let wanted: BTreeSet<&String> = self
            .to_start()
            .flat_map(|(_, recipe)| &recipe.way.installs)
            .collect();
        wanted
            .into_iter()
            .filter_map(|name| self.installs.get_key_value(name))
            .filter(|(_, described)| self.reinstall || !install::is_there(site, described))
            .collect()
    }
}
