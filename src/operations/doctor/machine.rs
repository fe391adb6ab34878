//! The machine: programs, downloads, users, ports, disk.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use super::finding::Finding;
use crate::{
    config::{Config, Runtime},
    failure::{Failure as _, chain},
    stack::{
        Service, Site,
        blueprint::{self, Blueprint, UpOptions},
        holder,
        native::{
            install, prepare, process,
            process_spec::ProcessSpec,
            programs::{self, Missing},
        },
        plan::Action,
        ports,
    },
};

/// Less than this is not enough to start with, in bytes.
const DISK_LEAST: u64 = 2 << 30;

/// Less than this will not last.
const DISK_ENOUGH: u64 = 5 << 30;

pub(super) async fn examine(site: &Site, config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        disk("disk of the data", site.home.path()),
        disk("disk of the downloads", &site.cache),
    ];
    // The running services' own way and ports are kept.
    let blueprint = match blueprint::plan_up(site, config, &UpOptions::default()).await {
        Ok(blueprint) => blueprint,
        Err(error) => {
            findings.push(Finding::fail("stack", chain(&error), error.hint()));
            return findings;
        }
    };
    findings.extend(engine(&blueprint));
    for (service, _) in blueprint.containers_to_start() {
        findings.extend(of_ports(site, &blueprint, service));
    }
    let native = |service: &&Service| service.runtime == Runtime::Native;
    let mut installs = BTreeSet::new();
    for service in blueprint.services.iter().filter(native) {
        let Some(spec) = blueprint.processes.get(&service.definition.name) else {
            continue;
        };
        installs.extend(spec.way.installs.iter().cloned());
        findings.push(of_programs(service, spec));
        findings.extend(account(site, service, spec));
        findings.extend(of_ports(site, &blueprint, service));
    }
    findings.extend(
        installs
            .iter()
            .filter_map(|name| download(site, &blueprint, name)),
    );
    findings
}

/// The container engine, and the images that are still to come.
fn engine(blueprint: &Blueprint) -> Vec<Finding> {
    let Some(engine_state) = &blueprint.engine_state else {
        return Vec::new();
    };
    let engine = &engine_state.engine;
    let evidence = format!("{} at {}", engine.version, engine.address.host);
    let missing = blueprint.missing_images();
    let image = |image: &str| {
        let title = format!("image {image}");
        Finding::warn(title, "not there yet", "fanout up, which pulls it")
    };
    let mut findings = vec![Finding::pass("container engine", evidence)];
    findings.extend(missing.into_iter().map(image));
    findings
}

fn of_programs(service: &Service, spec: &ProcessSpec) -> Finding {
    let name = &service.definition.name;
    let mut missing = spec.missing.clone();
    let programs = &spec.way.programs;
    missing.extend(programs::too_old(programs, &spec.programs, name));
    let title = format!("{name}: programs");
    if !missing.is_empty() {
        return Finding::fail(title, listing(&missing), Some(packages(&missing)));
    }
    let paths: Vec<String> = spec
        .programs
        .values()
        .map(|path| path.display().to_string())
        .collect();
    let evidence = if paths.is_empty() {
        "needs none".to_owned()
    } else {
        paths.join(", ")
    };
    Finding::pass(title, evidence)
}

fn listing(missing: &[Missing]) -> String {
    let texts: Vec<String> = missing
        .iter()
        .map(|one| format!("{} {}", one.program, one.problem))
        .collect();
    texts.join("; ")
}

fn packages(missing: &[Missing]) -> String {
    let names: BTreeSet<&str> = missing
        .iter()
        .flat_map(|one| one.debian.split(' '))
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    format!("on Debian: apt-get install {}", names.join(" "))
}

/// Whether a server that refuses to run as root has a user to run as.
fn account(site: &Site, service: &Service, spec: &ProcessSpec) -> Option<Finding> {
    let name = &service.definition.name;
    let title = format!("{name}: user");
    match prepare::account(&site.dir(), name, spec) {
        Ok(None) => None,
        Ok(Some(_)) => Some(Finding::pass(title, "root's rights can be dropped")),
        Err(error) => Some(Finding::fail(title, chain(&error), error.hint())),
    }
}

/// The ports of a service that does not run yet have to be free.
fn of_ports(site: &Site, blueprint: &Blueprint, service: &Service) -> Vec<Finding> {
    let name = &service.definition.name;
    let keeps = blueprint
        .plan
        .steps
        .iter()
        .any(|step| step.service == *name && step.action == Action::Keep);
    let runs = keeps || process::running(&site.dir(), name).is_some();
    let look = |port: &u16| {
        let title = format!("{name}: port {port}");
        if runs {
            return Finding::pass(title, "its own");
        }
        if ports::is_free(*port) {
            return Finding::pass(title, "free");
        }
        let holder = match holder(&site.home, *port) {
            Some(holder) => format!("held by pid {} ({})", holder.pid, holder.command),
            None => "held by a process that this user cannot see".to_owned(),
        };
        Finding::fail(title, holder, Some("fanout up --ports auto".to_owned()))
    };
    service.ports.values().map(look).collect()
}

/// What is downloaded once: there, or at least to be had.
fn download(site: &Site, blueprint: &Blueprint, name: &str) -> Option<Finding> {
    let install = blueprint.installs.get(name)?;
    let title = format!("download {name}");
    if install::is_installed(site, install) {
        let folder = site.install_folder(install).display().to_string();
        return Some(Finding::pass(title, folder));
    }
    let missing = install::missing_programs(name, install);
    if missing.is_empty() {
        let evidence = "not there yet";
        return Some(Finding::warn(title, evidence, "fanout up, which gets it"));
    }
    let evidence = format!("not there yet, and {}", listing(&missing));
    Some(Finding::fail(title, evidence, Some(packages(&missing))))
}

fn disk(title: &str, path: &Path) -> Finding {
    let there = existing(path);
    let free = match statvfs(&there) {
        #[allow(
            clippy::useless_conversion,
            reason = "the types differ between platforms"
        )]
        Ok(stat) => u64::from(stat.blocks_available()) * u64::from(stat.fragment_size()),
        Err(error) => {
            let evidence = format!("{} cannot be looked at: {error}", there.display());
            let fix = "name another: FANOUT_HOME, FANOUT_CACHE".to_owned();
            return Finding::fail(title, evidence, Some(fix));
        }
    };
    let evidence = format!("{} MiB free in {}", free >> 20, there.display());
    let fix = "make room, or name another folder: FANOUT_HOME, FANOUT_CACHE";
    if free < DISK_LEAST {
        Finding::fail(title, evidence, Some(fix.to_owned()))
    } else if free < DISK_ENOUGH {
        Finding::warn(title, evidence, fix)
    } else {
        Finding::pass(title, evidence)
    }
}

/// The folder itself, or the nearest above it that is there.
fn existing(path: &Path) -> PathBuf {
    let mut folders = path.ancestors();
    let found = folders.find(|folder| folder.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_on_the_disk_of_the_one_above() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        let finding = disk("disk", &folder.path().join("a/b"));
        assert!(finding.evidence.contains("MiB free in"), "{finding:?}");
    }

    #[test]
    fn packages_are_named_once() {
        let missing = |program: &str, debian: &str| Missing {
            program: program.to_owned(),
            problem: "is missing".to_owned(),
            wanted_by: "x".to_owned(),
            debian: debian.to_owned(),
        };
        let missing = [missing("a", "p q"), missing("b", "p")];
        assert_eq!(packages(&missing), "on Debian: apt-get install p q");
        assert_eq!(listing(&missing), "a is missing; b is missing");
    }
}
