//! Checks of the machine: programs, downloads, users, ports, disk.

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

/// Minimum free disk space, in bytes.
const MIN_FREE: u64 = 2 << 30;

/// Recommended free disk space, in bytes.
const RECOMMENDED_FREE: u64 = 5 << 30;

pub(super) async fn examine(site: &Site, config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        disk("disk of the data", site.home.path()),
        disk("disk of the downloads", &site.cache),
    ];
    // The plan keeps the variants and the ports of running services.
    let blueprint = match blueprint::plan_up(site, config, &UpOptions::default()).await {
        Ok(blueprint) => blueprint,
        Err(error) => {
            findings.push(Finding::fail("stack", chain(&error), error.hint()));
            return findings;
        }
    };
    findings.extend(engine(&blueprint));
    for (service, _) in blueprint.containers_to_start() {
        findings.extend(port_findings(site, &blueprint, service));
    }
    let is_native = |service: &&Service| service.runtime == Runtime::Native;
    let mut installs = BTreeSet::new();
    for service in blueprint.services.iter().filter(is_native) {
        let Some(spec) = blueprint.processes.get(&service.definition.name) else {
            continue;
        };
        installs.extend(spec.way.installs.iter().cloned());
        findings.push(programs_finding(service, spec));
        findings.extend(account(site, service, spec));
        findings.extend(port_findings(site, &blueprint, service));
    }
    findings.extend(
        installs
            .iter()
            .filter_map(|name| download(site, &blueprint, name)),
    );
    findings
}

/// Returns the findings of the container engine and of missing images.
fn engine(blueprint: &Blueprint) -> Vec<Finding> {
    let Some(engine_state) = &blueprint.engine_state else {
        return Vec::new();
    };
    let engine = &engine_state.engine;
    let evidence = format!("{} at {}", engine.version, engine.address.host);
    let missing = blueprint.missing_images();
    let image = |image: &str| {
        let title = format!("image {image}");
        Finding::warn(title, "not pulled yet", "fanout up, which pulls it")
    };
    let mut findings = vec![Finding::pass("container engine", evidence)];
    findings.extend(missing.into_iter().map(image));
    findings
}

fn programs_finding(service: &Service, spec: &ProcessSpec) -> Finding {
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
        "none required".to_owned()
    } else {
        paths.join(", ")
    };
    Finding::pass(title, evidence)
}

fn listing(missing: &[Missing]) -> String {
    let texts: Vec<String> = missing
        .iter()
        .map(|missing| format!("{} {}", missing.program, missing.problem))
        .collect();
    texts.join("; ")
}

fn packages(missing: &[Missing]) -> String {
    let names: BTreeSet<&str> = missing
        .iter()
        .flat_map(|missing| missing.debian.split(' '))
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    format!("on Debian: apt-get install {}", names.join(" "))
}

/// Returns the finding of the user that a server runs as if fanout runs as root.
fn account(site: &Site, service: &Service, spec: &ProcessSpec) -> Option<Finding> {
    let name = &service.definition.name;
    let title = format!("{name}: user");
    match prepare::account(&site.dir(), name, spec) {
        Ok(None) => None,
        Ok(Some(_)) => Some(Finding::pass(title, "root privileges can be dropped")),
        Err(error) => Some(Finding::fail(title, chain(&error), error.hint())),
    }
}

/// Returns the findings of a service's ports. Unless the service is running, they must be free.
fn port_findings(site: &Site, blueprint: &Blueprint, service: &Service) -> Vec<Finding> {
    let name = &service.definition.name;
    let is_kept = blueprint
        .plan
        .steps
        .iter()
        .any(|step| step.service == *name && step.action == Action::Keep);
    let is_running = is_kept || process::running(&site.dir(), name).is_some();
    let check = |port: &u16| {
        let title = format!("{name}: port {port}");
        if is_running {
            return Finding::pass(title, "used by this project");
        }
        if ports::is_free(*port) {
            return Finding::pass(title, "free");
        }
        let holder = match holder(&site.home, *port) {
            Some(holder) => format!("in use by pid {} ({})", holder.pid, holder.command),
            None => "in use by a process of another user".to_owned(),
        };
        Finding::fail(title, holder, Some("fanout up --ports auto".to_owned()))
    };
    service.ports.values().map(check).collect()
}

/// Returns the finding of a download: whether it is installed or can be installed.
fn download(site: &Site, blueprint: &Blueprint, name: &str) -> Option<Finding> {
    let install = blueprint.installs.get(name)?;
    let title = format!("download {name}");
    if install::is_installed(site, install) {
        let folder = site.install_folder(install).display().to_string();
        return Some(Finding::pass(title, folder));
    }
    let missing = install::missing_programs(name, install);
    if missing.is_empty() {
        let evidence = "not downloaded yet";
        return Some(Finding::warn(
            title,
            evidence,
            "fanout up, which downloads it",
        ));
    }
    let evidence = format!("not downloaded yet, and {}", listing(&missing));
    Some(Finding::fail(title, evidence, Some(packages(&missing))))
}

fn disk(title: &str, path: &Path) -> Finding {
    let folder = existing(path);
    let free = match statvfs(&folder) {
        #[allow(
            clippy::useless_conversion,
            reason = "the types differ between platforms"
        )]
        Ok(stat) => u64::from(stat.blocks_available()) * u64::from(stat.fragment_size()),
        Err(error) => {
            let evidence = format!("cannot check {}: {error}", folder.display());
            let fix = "use another folder: FANOUT_HOME, FANOUT_CACHE".to_owned();
            return Finding::fail(title, evidence, Some(fix));
        }
    };
    let evidence = format!("{} MiB free in {}", free >> 20, folder.display());
    let fix = "free space, or use another folder: FANOUT_HOME, FANOUT_CACHE";
    if free < MIN_FREE {
        Finding::fail(title, evidence, Some(fix.to_owned()))
    } else if free < RECOMMENDED_FREE {
        Finding::warn(title, evidence, fix)
    } else {
        Finding::pass(title, evidence)
    }
}

/// Returns the folder itself, or its nearest existing ancestor.
fn existing(path: &Path) -> PathBuf {
    let mut folders = path.ancestors();
    let folder = folders.find(|folder| folder.is_dir());
    folder.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_on_the_disk_of_its_parent() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        let finding = disk("disk", &folder.path().join("a/b"));
        assert!(finding.evidence.contains("MiB free in"), "{finding:?}");
    }

    #[test]
    fn each_package_is_listed_once() {
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
