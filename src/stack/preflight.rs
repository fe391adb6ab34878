//! What the machine has to offer before anything changes: the programs, the
//! users, the ports.

use std::collections::BTreeSet;

use super::{
    Site,
    blueprint::Blueprint,
    docker::world::World,
    native::{
        account::AccountError,
        install, prepare,
        programs::{self, Missing, ProgramsError},
    },
    ports::{self, Look, PortsError, Taken},
    proc,
    state::holder,
};
use crate::failure::{Failure, Kind};

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

impl PreflightError {
    fn inner(&self) -> &dyn Failure {
        match self {
            Self::Programs(error) => error,
            Self::Ports(error) => error,
            Self::Account(error) => error,
        }
    }
}

impl Failure for PreflightError {
    fn kind(&self) -> Kind {
        self.inner().kind()
    }

    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }
}

/// Checks that the machine has what the blueprint's services that are to be
/// started need.
///
/// # Errors
/// Tells all missing programs at once, else all taken ports.
pub async fn check(site: &Site, blueprint: &Blueprint) -> Result<(), PreflightError> {
    let missing = missing_programs(site, blueprint);
    if !missing.is_empty() {
        return Err(ProgramsError(missing).into());
    }
    let dir = site.dir();
    for (service, recipe) in blueprint.to_start() {
        prepare::account(&dir, &service.definition.name, recipe)?;
    }
    let taken = taken_ports(site, blueprint).await;
    if !taken.is_empty() {
        return Err(PortsError::Taken(taken).into());
    }
    Ok(())
}

fn missing_programs(site: &Site, blueprint: &Blueprint) -> Vec<Missing> {
    let mut missing = Vec::new();
    for (service, recipe) in blueprint.to_start() {
        let name = &service.definition.name;
        let programs = &recipe.way.programs;
        missing.extend(recipe.missing.iter().cloned());
        missing.extend(programs::too_old(programs, &recipe.programs, name));
    }
    for (name, described) in blueprint.missing_installs(site) {
        missing.extend(install::missing_programs(name, described));
    }
    missing
}

async fn taken_ports(site: &Site, blueprint: &Blueprint) -> Vec<Taken> {
    let dir = site.dir();
    let services = blueprint.services.iter();
    // What is about to be stopped gives its ports back.
    let own: BTreeSet<i32> = services
        .flat_map(|one| proc::holders_of(&dir.tether(&one.definition.name)))
        .collect();
    let own_ports = blueprint.world.as_ref().map(World::own_ports);
    let own_ports = own_ports.unwrap_or_default();
    let is_own = |taken: &Taken| {
        let holder = taken.holder.as_ref();
        own_ports.contains(&taken.port) || holder.is_some_and(|holder| own.contains(&holder.pid))
    };
    let processes = blueprint.to_start().map(|(service, _)| service);
    let containers = blueprint.containers_to_start();
    let starting = processes.chain(containers.map(|(service, _)| service));
    let wanted = starting.flat_map(|service| {
        let name = &service.definition.name;
        let ports = service.ports.values();
        ports.map(move |port| (*port, name.clone()))
    });
    let mut taken: Vec<Taken> = wanted
        .map(|(port, service)| (ports::look(port), port, service))
        .filter(|(look, ..)| *look != Look::Free)
        .map(|(look, port, service)| Taken {
            forbidden: look == Look::Forbidden,
            holder: holder(&site.home, port),
            port,
            service,
        })
        .filter(|taken| !is_own(taken))
        .collect();
    for one in &mut taken {
        name_container(blueprint, one).await;
    }
    taken
}

/// The process on a container's port is the engine's: the container says more.
async fn name_container(blueprint: &Blueprint, taken: &mut Taken) {
    if let (Some(world), Some(holder)) = (&blueprint.world, &mut taken.holder)
        && let Ok(Some(container)) = world.engine.publisher(taken.port).await
    {
        holder.command = format!("{}, for container {container}", holder.command);
    }
}
