//! Which services a project has, and which of them an `up` is about.

use std::collections::BTreeSet;

use super::{
    blueprint::{error::BlueprintError, wishes::Wishes},
    definition::{self, Definition},
};
use crate::{
    config::{Runtime, Settings},
    plan::{self, Desired},
    sink_kind::{SinkKind, is_idle_store},
};

/// The definitions of all services, each after all that it needs.
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

/// Those that a project of this runtime has.
#[must_use]
pub fn of_runtime(
    definitions: &[Definition],
    settings: &Settings,
    runtime: Runtime,
) -> Vec<Definition> {
    let wished = |name: &String| settings.services.get(name).and_then(|one| one.runtime);
    let all = definitions.iter();
    all.filter(|one| one.runtime(wished(&one.name), runtime).is_some())
        .cloned()
        .collect()
}

/// The services of these names, in their order among all; all of them where
/// none is named.
///
/// # Errors
/// Names the first that is no service.
pub fn named(all: &[Definition], names: &[String]) -> Result<Vec<Definition>, BlueprintError> {
    let stranger = names
        .iter()
        .find(|name| all.iter().all(|one| one.name != **name));
    if let Some(name) = stranger {
        return Err(unknown(all, name));
    }
    let wanted = |one: &&Definition| names.is_empty() || names.contains(&one.name);
    Ok(all.iter().filter(wanted).cloned().collect())
}

fn unknown(all: &[Definition], name: &str) -> BlueprintError {
    BlueprintError::UnknownService {
        name: name.to_owned(),
        known: all.iter().map(|one| one.name.clone()).collect(),
    }
}

/// The services wished for, and all that they need. A store that none of the
/// `sinks` writes to is only among them where it is named.
pub(super) fn select(
    all: &[Definition],
    sinks: &[SinkKind],
    wishes: &Wishes,
) -> Result<Vec<Definition>, BlueprintError> {
    let is_left_out = |name: &str| {
        let is_named = wishes.services.iter().any(|named| named == name);
        wishes.without.iter().any(|left_out| left_out == name)
            || !is_named && is_idle_store(name, sinks)
    };
    let mut open: Vec<&str> = wishes.services.iter().map(String::as_str).collect();
    if open.is_empty() {
        open = all.iter().map(|one| one.name.as_str()).collect();
    }
    let mut selected = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(definition) = all.iter().find(|one| one.name == name) else {
            return Err(unknown(all, name));
        };
        if !is_left_out(name) && selected.insert(name) {
            open.extend(definition.needs.iter().map(String::as_str));
        }
    }
    let chosen = |one: &&Definition| selected.contains(one.name.as_str());
    Ok(all.iter().filter(chosen).cloned().collect())
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
        let selected = select(&all, &SinkKind::ALL, &wishes).expect("known services");
        assert_eq!(names(&selected), ["kafka", "postgres", "connect"]);
    }

    #[test]
    fn a_named_service_comes_alone() {
        let all = definitions().expect("valid");
        let of = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            named(&all, &wanted)
        };
        let two = of(&["connect", "postgres"]).expect("known services");
        assert_eq!(names(&two), ["postgres", "connect"]);
        assert_eq!(of(&[]).expect("all").len(), all.len());
        of(&["kafak"]).expect_err("no such service");
    }

    #[test]
    fn what_is_left_out_stays_out() {
        let all = definitions().expect("valid");
        let wishes = Wishes {
            without: vec!["pipeline".to_owned()],
            ..Wishes::default()
        };
        let selected = select(&all, &SinkKind::ALL, &wishes).expect("known services");
        assert!(!names(&selected).contains(&"pipeline"));
        assert_eq!(selected.len(), all.len() - 1);
    }

    #[test]
    fn a_store_that_no_sink_writes_to_comes_only_where_it_is_named() {
        let all = definitions().expect("valid");
        let sinks = [SinkKind::Redis, SinkKind::Http];
        let of = |services: &[&str]| {
            let services = services.iter().map(|name| (*name).to_owned());
            let wishes = Wishes {
                services: services.collect(),
                ..Wishes::default()
            };
            let selected = select(&all, &sinks, &wishes).expect("known services");
            let is_store = |one: &Definition| one.name == "clickhouse";
            (selected.iter().any(is_store), selected.len())
        };
        assert_eq!(of(&[]), (false, all.len() - 1));
        assert!(!of(&["pipeline"]).0, "the pipeline does without it");
        assert_eq!(of(&["clickhouse"]), (true, 1));
        assert!(of(&["pipeline", "clickhouse"]).0);
    }

    #[test]
    fn an_unknown_service_is_told_with_those_there_are() {
        let all = definitions().expect("valid");
        let wishes = Wishes {
            services: vec!["kafak".to_owned()],
            ..Wishes::default()
        };
        let error = select(&all, &SinkKind::ALL, &wishes)
            .expect_err("no such service")
            .to_string();
        assert!(
            error.starts_with("unknown service \"kafak\", expected one of clickhouse, kafka")
                && error.ends_with("(did you mean \"kafka\"?)"),
            "{error}"
        );
    }
}
