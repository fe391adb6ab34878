//! Selects the services of a project, and those that an `up` starts.

use std::collections::BTreeSet;

use super::{
    blueprint::options::UpOptions,
    definition::{self, Definition},
    plan::{self, Desired},
};
use crate::{
    config::{Runtime, Settings},
    failure::{Command, Error, Kind},
    sink_kind::{SinkKind, is_idle_store},
    text::suggest,
};

/// Returns the definitions of all services, ordered by their dependencies.
///
/// # Errors
/// If the definitions are invalid.
pub fn definitions() -> Result<Vec<Definition>, Error> {
    let all = definition::services()?;
    let requested: Vec<Desired> = all
        .iter()
        .map(|service| Desired {
            name: service.name.clone(),
            runtime: Runtime::Native,
            needs: service.needs.clone(),
            fingerprint: plan::Fingerprint::new(),
        })
        .collect();
    let order = plan::order(&requested)?;
    let find = |name: &str| all.iter().find(|service| service.name == name).cloned();
    Ok(order
        .iter()
        .filter_map(|service| find(&service.name))
        .collect())
}

/// Returns the services that a project with this runtime has.
#[must_use]
pub fn of_runtime(
    definitions: &[Definition],
    settings: &Settings,
    runtime: Runtime,
) -> Vec<Definition> {
    let configured = |name: &String| {
        settings
            .services
            .get(name)
            .and_then(|service| service.runtime)
    };
    let all = definitions.iter();
    all.filter(|service| {
        service
            .runtime(configured(&service.name), runtime)
            .is_some()
    })
    .cloned()
    .collect()
}

/// Returns the services with these names, in the order of `all`; if no name is
/// given, all of them.
///
/// # Errors
/// Returns the first unknown name.
pub fn named(all: &[Definition], names: &[String]) -> Result<Vec<Definition>, Error> {
    let unknown_name = names
        .iter()
        .find(|name| all.iter().all(|service| service.name != **name));
    if let Some(name) = unknown_name {
        return Err(unknown(all, name));
    }
    let requested = |service: &&Definition| names.is_empty() || names.contains(&service.name);
    Ok(all.iter().filter(requested).cloned().collect())
}

fn unknown(all: &[Definition], name: &str) -> Error {
    let known: Vec<String> = all.iter().map(|service| service.name.clone()).collect();
    let message = suggest::unknown("service", name, &known);
    Error::new(Kind::Usage, "unknown_service", message).with_hint(Command::new("config show"))
}

/// Returns the requested services and their dependencies. A store that none of
/// the `sinks` writes to is included only if it is named.
pub(super) fn select(
    all: &[Definition],
    sinks: &[SinkKind],
    options: &UpOptions,
) -> Result<Vec<Definition>, Error> {
    let is_excluded = |name: &str| {
        let is_named = options.services.iter().any(|service| service == name);
        options.excluded.iter().any(|excluded| excluded == name)
            || !is_named && is_idle_store(name, sinks)
    };
    let mut open: Vec<&str> = options.services.iter().map(String::as_str).collect();
    if open.is_empty() {
        open = all.iter().map(|service| service.name.as_str()).collect();
    }
    let mut selected = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(definition) = all.iter().find(|service| service.name == name) else {
            return Err(unknown(all, name));
        };
        if !is_excluded(name) && selected.insert(name) {
            open.extend(definition.needs.iter().map(String::as_str));
        }
    }
    let is_selected = |service: &&Definition| selected.contains(service.name.as_str());
    Ok(all.iter().filter(is_selected).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(definitions: &[Definition]) -> Vec<&str> {
        definitions
            .iter()
            .map(|service| service.name.as_str())
            .collect()
    }

    #[test]
    fn dependencies_are_selected_too() {
        let all = definitions().expect("valid definitions");
        let options = UpOptions {
            services: vec!["connect".to_owned()],
            ..UpOptions::default()
        };
        let selected = select(&all, &SinkKind::ALL, &options).expect("known services");
        assert_eq!(names(&selected), ["kafka", "postgres", "connect"]);
    }

    #[test]
    fn a_named_service_is_returned_without_its_dependencies() {
        let all = definitions().expect("valid definitions");
        let find = |requested: &[&str]| {
            let requested: Vec<String> = requested.iter().map(|name| (*name).to_owned()).collect();
            named(&all, &requested)
        };
        let two = find(&["connect", "postgres"]).expect("known services");
        assert_eq!(names(&two), ["postgres", "connect"]);
        assert_eq!(find(&[]).expect("all services").len(), all.len());
        find(&["kafak"]).expect_err("no such service");
    }

    #[test]
    fn an_excluded_service_is_not_selected() {
        let all = definitions().expect("valid definitions");
        let options = UpOptions {
            excluded: vec!["pipeline".to_owned()],
            ..UpOptions::default()
        };
        let selected = select(&all, &SinkKind::ALL, &options).expect("known services");
        assert!(!names(&selected).contains(&"pipeline"));
        assert_eq!(selected.len(), all.len() - 1);
    }

    #[test]
    fn a_store_without_a_sink_is_selected_only_if_named() {
        let all = definitions().expect("valid definitions");
        let sinks = [SinkKind::Redis, SinkKind::Http];
        let selection = |services: &[&str]| {
            let services = services.iter().map(|name| (*name).to_owned());
            let options = UpOptions {
                services: services.collect(),
                ..UpOptions::default()
            };
            let selected = select(&all, &sinks, &options).expect("known services");
            let is_store = |service: &Definition| service.name == "clickhouse";
            (selected.iter().any(is_store), selected.len())
        };
        assert_eq!(selection(&[]), (false, all.len() - 1));
        assert!(!selection(&["pipeline"]).0, "the pipeline does not need it");
        assert_eq!(selection(&["clickhouse"]), (true, 1));
        assert!(selection(&["pipeline", "clickhouse"]).0);
    }

    #[test]
    fn an_unknown_service_is_reported_with_the_known_ones() {
        let all = definitions().expect("valid definitions");
        let options = UpOptions {
            services: vec!["kafak".to_owned()],
            ..UpOptions::default()
        };
        let error = select(&all, &SinkKind::ALL, &options)
            .expect_err("no such service")
            .to_string();
        assert!(
            error.starts_with("unknown service \"kafak\", expected one of clickhouse, kafka")
                && error.ends_with("(did you mean \"kafka\"?)"),
            "{error}"
        );
    }
}
