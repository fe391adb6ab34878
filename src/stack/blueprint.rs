//! All that `up` knows before it changes anything: the services in order, how
//! each is run, and the plan. What stands in its way is asked by
//! [`super::preflight`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{
    Site, State, StateError,
    definition::{self, Definition, DefinitionError, Install},
    home::ProjectDir,
    native::{
        install, process,
        recipe::{Kitchen, Recipe, RecipeError, recipe},
    },
    proc,
    resolve::{self, Known, PortMode, ResolveError, Service},
    state::ServiceState,
};
use crate::{
    config::{Config, Runtime, Settings},
    failure::{Failure, Kind},
    plan::{self, Action, Desired, Observed, Plan, PlanError, Recreate},
    project::Project,
};

/// What is asked of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// These, and what they need; empty means all.
    pub services: Vec<String>,
    /// Leave these out.
    pub without: Vec<String>,
    pub runtime: Option<Runtime>,
    pub ports: PortMode,
    pub recreate: Recreate,
    /// Make the installs of what is started anew.
    pub reinstall: bool,
}

/// What is going to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// Each after all that it needs.
    pub services: Vec<Service>,
    /// How the native ones are run.
    pub recipes: BTreeMap<String, Recipe>,
    pub plan: Plan,
    /// With every service where it shall be.
    pub settings: Settings,
    pub installs: BTreeMap<String, Install>,
    /// Those that are there are made anew.
    pub reinstall: bool,
    /// To be recorded before anything changes.
    pub state: State,
}

/// Why there is no blueprint.
#[derive(Debug, thiserror::Error)]
pub enum BlueprintError {
    #[error("{name} is no service; there are {}", known.join(", "))]
    UnknownService { name: String, known: Vec<String> },
    #[error("project {project} was created with the {} runtime, which it keeps", recorded.name())]
    OtherRuntime { project: String, recorded: Runtime },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl BlueprintError {
    fn inner(&self) -> Option<&dyn Failure> {
        Some(match self {
            Self::UnknownService { .. } | Self::OtherRuntime { .. } => return None,
            Self::State(error) => error,
            Self::Definition(error) => error,
            Self::Resolve(error) => error,
            Self::Recipe(error) => error,
            Self::Plan(error) => error,
        })
    }
}

impl Failure for BlueprintError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownService { .. } => Kind::Usage,
            Self::OtherRuntime { .. } => Kind::Refused,
            _ => self.inner().map_or(Kind::Failed, Failure::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "unknown_service",
            Self::OtherRuntime { .. } => "other_runtime",
            _ => self.inner().map_or("stack", Failure::code),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherRuntime { project, .. } => Some(format!("fanout --project {project} reset")),
            Self::UnknownService { .. } => {
                Some("fanout up --dry-run, which lists them all".to_owned())
            }
            _ => self.inner().and_then(Failure::hint),
        }
    }
}

/// The definitions of services that can be run under `runtime`, each after all
/// that it needs.
///
/// # Errors
/// When the definitions do not hold together.
pub fn definitions() -> Result<Vec<Definition>, BlueprintError> {
    let all = definition::services()?;
    let wanted: Vec<Desired> = all
        .iter()
        .map(|one| Desired {
            name: one.name.clone(),
            runtime: Runtime::Native,
            needs: one.needs.clone(),
            fingerprint: plan::Fingerprint::new(),
        })
        .collect();
    let order = plan::order(&wanted)?;
    let find = |name: &str| all.iter().find(|one| one.name == name).cloned();
    Ok(order.iter().filter_map(|one| find(&one.name)).collect())
}

/// Draws the blueprint. Looks at processes, ports and programs, and changes
/// nothing.
///
/// # Errors
/// When the wishes or the configuration are wrong.
pub fn draw(site: &Site, config: &Config, wishes: &Wishes) -> Result<Blueprint, BlueprintError> {
    let dir = site.dir();
    let recorded = State::load(&dir)?;
    let runtime = runtime(site, recorded.as_ref(), wishes)?;
    let all = definitions()?;
    resolve::check_names(&all, &config.settings)?;
    let selected = select(&all, wishes)?;
    let running: BTreeSet<String> = all
        .iter()
        .filter(|one| process::running(&dir, &one.name).is_some())
        .map(|one| one.name.clone())
        .collect();
    let known = Known {
        config,
        state: recorded.as_ref(),
        runtime,
        mode: wishes.ports,
        running: &running,
        avoided: &ports_of_others(site),
        seed: &dir.path().to_string_lossy(),
    };
    let services = resolve::resolve(&selected, &known)?;
    let endpoints: BTreeMap<String, String> = services
        .iter()
        .map(|service| {
            (
                service.definition.endpoint.clone(),
                service.endpoint.clone(),
            )
        })
        .collect();
    let settings = resolve::settings_with(&config.settings, &endpoints)?;
    let mut state = recorded.unwrap_or_else(|| State::new(&site.project, runtime));
    let installs = definition::installs()?;
    let kitchen = Kitchen {
        site,
        settings: &settings,
        installs: &installs,
    };
    let recipes = recipes(&services, &state, &kitchen)?;
    let plan = make_plan(site, &services, &recipes, wishes.recreate)?;
    record(&mut state, &services, &recipes, endpoints);
    Ok(Blueprint {
        services,
        recipes,
        plan,
        settings,
        installs,
        reinstall: wishes.reinstall,
        state,
    })
}

fn runtime(
    site: &Site,
    recorded: Option<&State>,
    wishes: &Wishes,
) -> Result<Runtime, BlueprintError> {
    match (recorded.map(|state| state.runtime), wishes.runtime) {
        (Some(recorded), Some(asked)) if recorded != asked => Err(BlueprintError::OtherRuntime {
            project: site.project.to_string(),
            recorded,
        }),
        (Some(recorded), _) => Ok(recorded),
        (None, asked) => Ok(asked.unwrap_or(Runtime::Native)),
    }
}

/// The services wished for, and all that they need.
fn select(all: &[Definition], wishes: &Wishes) -> Result<Vec<Definition>, BlueprintError> {
    let mut open: Vec<&str> = wishes.services.iter().map(String::as_str).collect();
    if open.is_empty() {
        open = all.iter().map(|one| one.name.as_str()).collect();
    }
    let mut selected = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(definition) = all.iter().find(|one| one.name == name) else {
            return Err(BlueprintError::UnknownService {
                name: name.to_owned(),
                known: all.iter().map(|one| one.name.clone()).collect(),
            });
        };
        if !wishes.without.iter().any(|left_out| left_out == name) && selected.insert(name) {
            open.extend(definition.needs.iter().map(String::as_str));
        }
    }
    let chosen = |one: &&Definition| selected.contains(one.name.as_str());
    Ok(all.iter().filter(chosen).cloned().collect())
}

/// Ports of other projects of this home that run, or are just brought up.
fn ports_of_others(site: &Site) -> BTreeSet<u16> {
    let entries = fs::read_dir(site.home.path())
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<Project>().ok())
        .filter(|project| *project != site.project)
        .map(|project| site.home.project(&project))
        .filter_map(|dir| Some((State::load(&dir).ok().flatten()?, dir)))
        .filter(|(state, dir)| is_in_use(state, dir))
        .flat_map(|(state, _)| state.services.into_values())
        .flat_map(|service| service.ports.into_values())
        .collect()
}

/// Whether anything of a project runs, or somebody changes it.
fn is_in_use(state: &State, dir: &ProjectDir) -> bool {
    let mut services = state.services.keys();
    services.any(|service| process::running(dir, service).is_some())
        || !proc::holders_of(&dir.lock()).is_empty()
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

fn make_plan(
    site: &Site,
    services: &[Service],
    recipes: &BTreeMap<String, Recipe>,
    recreate: Recreate,
) -> Result<Plan, PlanError> {
    let dir = site.dir();
    let selected: BTreeSet<&str> = services
        .iter()
        .map(|one| one.definition.name.as_str())
        .collect();
    let mut desired = Vec::with_capacity(services.len());
    let mut observed = BTreeMap::new();
    for Service {
        definition,
        runtime,
        ..
    } in services
    {
        let recipe = recipes.get(&definition.name);
        let needs = definition
            .needs
            .iter()
            .filter(|need| selected.contains(need.as_str()));
        desired.push(Desired {
            name: definition.name.clone(),
            runtime: *runtime,
            needs: needs.cloned().collect(),
            fingerprint: recipe
                .map(|one| one.fingerprint.clone())
                .unwrap_or_default(),
        });
        let found = Observed {
            exists: recipe.is_some_and(|recipe| recipe.data.exists()),
            running: process::running(&dir, &definition.name).map(|record| record.fingerprint),
        };
        observed.insert(definition.name.clone(), found);
    }
    plan::plan(&desired, &observed, recreate)
}

fn record(
    state: &mut State,
    services: &[Service],
    recipes: &BTreeMap<String, Recipe>,
    endpoints: BTreeMap<String, String>,
) {
    state.settings.extend(endpoints);
    for service in services {
        let name = &service.definition.name;
        let known = ServiceState {
            runtime: service.runtime,
            variant: recipes.get(name).map(|recipe| recipe.way.variant.clone()),
            ports: service.ports.clone(),
        };
        state.services.insert(name.clone(), known);
    }
}

impl Blueprint {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(definitions: &[Definition]) -> Vec<&str> {
        definitions.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn what_a_service_needs_comes_with_it() {
        let all = definitions().expect("valid");
        let wishes = Wishes {
            services: vec!["connect".to_owned()],
            ..Wishes::default()
        };
        let selected = select(&all, &wishes).expect("known services");
        assert_eq!(names(&selected), ["kafka", "postgres", "connect"]);
    }

    #[test]
    fn what_is_left_out_stays_out() {
        let all = definitions().expect("valid");
        let wishes = Wishes {
            without: vec!["pipeline".to_owned()],
            ..Wishes::default()
        };
        let selected = select(&all, &wishes).expect("known services");
        assert!(!names(&selected).contains(&"pipeline"));
        assert_eq!(selected.len(), all.len() - 1);
    }

    #[test]
    fn an_unknown_service_is_told_with_those_there_are() {
        let all = definitions().expect("valid");
        let wishes = Wishes {
            services: vec!["kafak".to_owned()],
            ..Wishes::default()
        };
        let error = select(&all, &wishes)
            .expect_err("no such service")
            .to_string();
        assert!(
            error.starts_with("kafak is no service; there are clickhouse, kafka"),
            "{error}"
        );
    }
}
