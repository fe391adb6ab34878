//! Plans the actions of `up` per service, and the reasons for them: a pure
//! function of the desired and the observed services. Carrying out the plan is
//! left to the stack.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    config::Runtime,
    failure::{Error, Kind},
};

/// Inputs of a service by name (`env.TZ`, `ports.main`), with a digest of each
/// value.
pub type Fingerprint = BTreeMap<String, String>;

/// Desired state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub name: String,
    pub runtime: Runtime,
    /// Services that must be ready before this one starts.
    pub needs: Vec<String>,
    pub fingerprint: Fingerprint,
}

/// Observed state of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether the service has run before, so that its data exists.
    pub exists: bool,
    /// Fingerprint that the service was started with, if it is running.
    pub running: Option<Fingerprint>,
    /// Fingerprint of the existing container, if the service is stopped and
    /// would start in that container.
    pub stopped: Option<Fingerprint>,
}

/// Whether a running service is recreated if its fingerprint differs from the
/// desired one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// Recreate it if it differs.
    #[default]
    Auto,
    /// Never recreate it.
    Never,
    /// Always recreate it.
    Force,
}

/// Action on one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create and start a service that has never run.
    Create,
    /// Start an existing service that is not running.
    Start,
    /// Stop the service, then create and start it again.
    Recreate { reasons: Vec<String> },
    /// Leave the service unchanged.
    Keep,
}

/// Action on one service, as part of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub service: String,
    pub runtime: Runtime,
    pub action: Action,
}

impl Action {
    /// Returns the name of the action: `recreate`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Recreate { .. } => "recreate",
            Self::Keep => "keep",
        }
    }

    /// Returns the reasons for a recreation; empty for the other actions.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        match self {
            Self::Recreate { reasons } => reasons,
            _ => &[],
        }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut step = serializer.serialize_struct("Step", 4)?;
        step.serialize_field("service", &self.service)?;
        step.serialize_field("runtime", &self.runtime)?;
        step.serialize_field("action", self.action.name())?;
        step.serialize_field("because", self.action.reasons())?;
        step.end()
    }
}

/// Steps, ordered by the services' dependencies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    #[serde(rename = "plan")]
    pub steps: Vec<Step>,
}

impl Plan {
    /// Returns whether every service stays unchanged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| step.action == Action::Keep)
    }
}

/// Plans the action on each service.
///
/// # Errors
/// If a service needs an unknown service, or itself through others.
pub fn plan(
    desired: &[Desired],
    observed: &BTreeMap<String, Observed>,
    recreate: Recreate,
) -> Result<Plan, Error> {
    let steps = order(desired)?
        .into_iter()
        .map(|service| Step {
            service: service.name.clone(),
            runtime: service.runtime,
            action: action(service, observed.get(&service.name), recreate),
        })
        .collect();
    Ok(Plan { steps })
}

fn action(desired: &Desired, observed: Option<&Observed>, recreate: Recreate) -> Action {
    if desired.runtime == Runtime::External {
        return Action::Keep;
    }
    let Some(observed) = observed else {
        return Action::Create;
    };
    match (&observed.running, recreate) {
        (None, _) => stopped_action(desired, observed),
        (Some(_), Recreate::Never) => Action::Keep,
        (Some(_), Recreate::Force) => Action::Recreate {
            reasons: vec!["forced".to_owned()],
        },
        (Some(running), Recreate::Auto) => {
            let reasons = differences(running, &desired.fingerprint);
            if reasons.is_empty() {
                Action::Keep
            } else {
                Action::Recreate { reasons }
            }
        }
    }
}

/// Returns the action on a stopped service. It is recreated if it would start
/// with other inputs than desired.
fn stopped_action(desired: &Desired, observed: &Observed) -> Action {
    let reasons = observed
        .stopped
        .as_ref()
        .map(|fingerprint| differences(fingerprint, &desired.fingerprint))
        .unwrap_or_default();
    match observed.exists {
        _ if !reasons.is_empty() => Action::Recreate { reasons },
        true => Action::Start,
        false => Action::Create,
    }
}

/// Returns the differences, for example `env.TZ changed`, `env.TZ added` or
/// `env.TZ removed`.
fn differences(running: &Fingerprint, desired: &Fingerprint) -> Vec<String> {
    let keys: BTreeSet<&String> = running.keys().chain(desired.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (running.get(key), desired.get(key)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(_), Some(_)) => Some(format!("{key} changed")),
            (None, _) => Some(format!("{key} added")),
            (_, None) => Some(format!("{key} removed")),
        })
        .collect()
}

/// Orders the services by their dependencies. Services that could come next
/// keep the given order.
///
/// # Errors
/// Same as [`plan`].
pub fn order(desired: &[Desired]) -> Result<Vec<&Desired>, Error> {
    let by_name: BTreeMap<&str, &Desired> = desired
        .iter()
        .map(|service| (service.name.as_str(), service))
        .collect();
    for service in desired {
        if let Some(needs) = service
            .needs
            .iter()
            .find(|need| !by_name.contains_key(need.as_str()))
        {
            let message = format!("{} needs {needs}, which is not a service", service.name);
            return Err(Error::new(Kind::Usage, "unknown_need", message));
        }
    }
    let mut ordered_names = BTreeSet::new();
    let mut ordered = Vec::with_capacity(desired.len());
    while ordered.len() < desired.len() {
        let next = desired.iter().find(|service| {
            let ready = service
                .needs
                .iter()
                .all(|need| ordered_names.contains(need.as_str()));
            ready && !ordered_names.contains(service.name.as_str())
        });
        let Some(next) = next else {
            let cycle = cycle(desired, &ordered_names, &by_name).join(" needs ");
            let message = format!("the services need each other in a cycle: {cycle}");
            return Err(Error::new(Kind::Usage, "cyclic_needs", message));
        };
        ordered_names.insert(next.name.as_str());
        ordered.push(next);
    }
    Ok(ordered)
}

/// Follows unmet dependencies until a service appears for the second time.
fn cycle(
    desired: &[Desired],
    ordered_names: &BTreeSet<&str>,
    by_name: &BTreeMap<&str, &Desired>,
) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut current = desired
        .iter()
        .find(|service| !ordered_names.contains(service.name.as_str()));
    while let Some(service) = current {
        let repeated_index = path.iter().position(|name| *name == service.name);
        path.push(service.name.clone());
        if let Some(start) = repeated_index {
            return path.split_off(start);
        }
        let unmet = service
            .needs
            .iter()
            .find(|need| !ordered_names.contains(need.as_str()));
        current = unmet.and_then(|need| by_name.get(need.as_str()).copied());
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(name: &str, needs: &[&str], inputs: &[(&str, &str)]) -> Desired {
        Desired {
            name: name.to_owned(),
            runtime: Runtime::Native,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            fingerprint: fingerprint(inputs),
        }
    }

    fn fingerprint(inputs: &[(&str, &str)]) -> Fingerprint {
        inputs
            .iter()
            .map(|(key, digest)| ((*key).to_owned(), (*digest).to_owned()))
            .collect()
    }

    fn action_of(desired: Desired, observed: Observed, recreate: Recreate) -> Action {
        let observed = BTreeMap::from([(desired.name.clone(), observed)]);
        let plan = plan(&[desired], &observed, recreate).expect("a plan");
        plan.steps.into_iter().next().expect("a step").action
    }

    fn running(inputs: &[(&str, &str)]) -> Observed {
        Observed {
            exists: true,
            running: Some(fingerprint(inputs)),
            stopped: None,
        }
    }

    #[test]
    fn a_new_service_is_created_and_a_stopped_one_is_started() {
        let redis = || service("redis", &[], &[]);
        let stopped = Observed {
            exists: true,
            ..Observed::default()
        };
        assert_eq!(
            action_of(redis(), Observed::default(), Recreate::Auto),
            Action::Create
        );
        assert_eq!(
            action_of(redis(), stopped.clone(), Recreate::Auto),
            Action::Start
        );
        assert_eq!(action_of(redis(), stopped, Recreate::Force), Action::Start);
    }

    #[test]
    fn a_service_that_runs_as_desired_is_kept() {
        let redis = service("redis", &[], &[("command", "1")]);
        assert_eq!(
            action_of(redis, running(&[("command", "1")]), Recreate::Auto),
            Action::Keep
        );
    }

    #[test]
    fn every_difference_is_a_reason() {
        let redis = || {
            service(
                "redis",
                &[],
                &[("command", "1"), ("env.A", "1"), ("env.B", "1")],
            )
        };
        let found = || running(&[("command", "1"), ("env.A", "2"), ("env.C", "1")]);
        let reasons = ["env.A changed", "env.B added", "env.C removed"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            action_of(redis(), found(), Recreate::Auto),
            Action::Recreate { reasons }
        );
        assert_eq!(action_of(redis(), found(), Recreate::Never), Action::Keep);
    }

    #[test]
    fn a_stopped_service_with_other_inputs_is_recreated() {
        let redis = || service("redis", &[], &[("env.A", "1")]);
        let made_with = |value| Observed {
            exists: true,
            running: None,
            stopped: Some(fingerprint(&[("env.A", value)])),
        };
        assert_eq!(
            action_of(redis(), made_with("1"), Recreate::Auto),
            Action::Start
        );
        let reasons = vec!["env.A changed".to_owned()];
        assert_eq!(
            action_of(redis(), made_with("2"), Recreate::Never),
            Action::Recreate { reasons }
        );
    }

    #[test]
    fn an_external_service_is_left_alone() {
        let mut redis = service("redis", &[], &[("command", "1")]);
        redis.runtime = Runtime::External;
        assert_eq!(
            action_of(redis, Observed::default(), Recreate::Force),
            Action::Keep
        );
    }

    #[test]
    fn an_unknown_dependency_is_reported() {
        let error = order(&[service("connect", &["kafca"], &[])]).expect_err("no kafca");
        assert_eq!(
            error.to_string(),
            "connect needs kafca, which is not a service"
        );
    }

    #[test]
    fn a_dependency_cycle_is_reported_in_full() {
        let services = [
            service("free", &[], &[]),
            service("outer", &["a"], &[]),
            service("a", &["free", "b"], &[]),
            service("b", &["a"], &[]),
        ];
        let error = order(&services).expect_err("a circle");
        assert_eq!(
            error.to_string(),
            "the services need each other in a cycle: a needs b needs a"
        );
    }

    /// Up to 12 services in random order, each needing some of the services
    /// generated before it.
    fn services() -> impl Strategy<Value = Vec<Desired>> {
        let needs = prop::collection::vec(
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            1..12,
        );
        needs
            .prop_map(|all| {
                let name = |index: usize| format!("s{index}");
                let service = |(index, needs): (usize, Vec<prop::sample::Index>)| Desired {
                    name: name(index),
                    runtime: Runtime::Native,
                    needs: match index {
                        0 => Vec::new(),
                        _ => needs.iter().map(|need| name(need.index(index))).collect(),
                    },
                    fingerprint: Fingerprint::new(),
                };
                all.into_iter().enumerate().map(service).collect::<Vec<_>>()
            })
            .prop_shuffle()
    }

    proptest! {
        #[test]
        fn the_order_is_topological(services in services()) {
            let ordered = order(&services).expect("no circle");
            prop_assert_eq!(ordered.len(), services.len());
            for (index, service) in ordered.iter().enumerate() {
                for need in &service.needs {
                    prop_assert!(ordered[..index].iter().any(|earlier| earlier.name == *need));
                }
            }
        }
    }
}
