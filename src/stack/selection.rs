//! Which services a project has, and which of them an `up` is about.

use std::collections::BTreeSet;

use super::{
    blueprint::{error::BlueprintError, wishes::Wishes},
    definition::{self, Definition},
};
use crate::{
    config::{Runtime, Settings},
    plan::{self, Desired},
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

/// The services wished for, and all that they need.
pub(super) fn select(
    all: &[Definition],
    wishes: &Wishes,
) -> Result<Vec<Definition>, BlueprintError> {
    let mut open: Vec<&str> = wishes.services.iter().map(String::as_str).collect();
    if open.is_empty() {
        open = all.iter().map(|one| one.name.as_str()).collect();
    }
    let mut selected = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(definition) = all.iter().find(|one| one.name == name) else {
            return Err(unknown(all, name));
        };
        if !wishes.without.iter().any(|left_out| left_out == name) && selected.insert(name) {
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
        let selected = select(&all, &wishes).expect("known services");
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
            error.starts_with("unknown service \"kafak\", expected one of clickhouse, kafka")
                && error.ends_with("(did you mean \"kafka\"?)"),
            "{error}"
        );
    }
}
