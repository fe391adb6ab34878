//! Checks of the machine before anything changes: programs, users and ports.

use std::collections::BTreeSet;

use super::{
    Site,
    blueprint::Blueprint,
    docker::engine_state::EngineState,
    native::{
        install, prepare,
        programs::{self, Missing},
    },
    ports::{self, Availability, UnavailablePort},
    proc,
    state::holder,
};
use crate::failure::Error;

/// Checks that the machine has everything that the services to be started need.
///
/// # Errors
/// Returns all missing programs together, otherwise all unavailable ports
/// together.
pub async fn check(site: &Site, blueprint: &Blueprint) -> Result<(), Error> {
    let missing = missing_programs(site, blueprint);
    if !missing.is_empty() {
        return Err(programs::missing_error(&missing));
    }
    let dir = site.dir();
    for (service, spec) in blueprint.to_start() {
        prepare::account(&dir, &service.definition.name, spec)?;
    }
    let unavailable = unavailable_ports(site, blueprint).await;
    if !unavailable.is_empty() {
        return Err(ports::unavailable_error(&unavailable));
    }
    Ok(())
}

fn missing_programs(site: &Site, blueprint: &Blueprint) -> Vec<Missing> {
    let mut missing = Vec::new();
    for (service, spec) in blueprint.to_start() {
        let name = &service.definition.name;
        let programs = &spec.way.programs;
        missing.extend(spec.missing.iter().cloned());
        missing.extend(programs::too_old(programs, &spec.programs, name));
    }
    for (name, described) in blueprint.missing_installs(site) {
        missing.extend(install::missing_programs(name, described));
    }
    missing
}

async fn unavailable_ports(site: &Site, blueprint: &Blueprint) -> Vec<UnavailablePort> {
    let dir = site.dir();
    let services = blueprint.services.iter();
    // Ports of the project's own processes are free once they are stopped.
    let own_pids: BTreeSet<i32> = services
        .flat_map(|service| proc::holders_of(&dir.tether(&service.definition.name)))
        .collect();
    let own_ports = blueprint.engine_state.as_ref().map(EngineState::own_ports);
    let own_ports = own_ports.unwrap_or_default();
    let is_own = |unavailable: &UnavailablePort| {
        let holder = unavailable.holder.as_ref();
        own_ports.contains(&unavailable.port)
            || holder.is_some_and(|holder| own_pids.contains(&holder.pid))
    };
    let processes = blueprint.to_start().map(|(service, _)| service);
    let containers = blueprint.containers_to_start();
    let starting = processes.chain(containers.map(|(service, _)| service));
    let required = starting.flat_map(|service| {
        let name = &service.definition.name;
        let ports = service.ports.values();
        ports.map(move |port| (*port, name.clone()))
    });
    let mut unavailable: Vec<UnavailablePort> = required
        .map(|(port, service)| (ports::availability(port), port, service))
        .filter(|(availability, ..)| *availability != Availability::Free)
        .map(|(availability, port, service)| UnavailablePort {
            forbidden: availability == Availability::Forbidden,
            holder: holder(&site.home, port),
            port,
            service,
        })
        .filter(|unavailable| !is_own(unavailable))
        .collect();
    for port in &mut unavailable {
        name_container(blueprint, port).await;
    }
    unavailable
}

/// The process that uses a container's port belongs to the engine, so the
/// container's name is added.
async fn name_container(blueprint: &Blueprint, unavailable: &mut UnavailablePort) {
    if let (Some(engine_state), Some(holder)) = (&blueprint.engine_state, &mut unavailable.holder)
        && let Ok(Some(container)) = engine_state.engine.publisher(unavailable.port).await
    {
        holder.command = format!("{}, for container {container}", holder.command);
    }
}
