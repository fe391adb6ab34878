//! What `up` is going to do, service by service, and why: a pure function of
//! what is wanted and what is there. Applying it is the stack's business.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    config::Runtime,
    failure::{Failure, Kind},
};

/// Inputs of a service by name (`env.TZ`, `ports.main`) → a digest of each.
pub type Fingerprint = BTreeMap<String, String>;

/// A service as it should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub name: String,
    pub runtime: Runtime,
    /// Services that have to be ready before this one starts.
    pub needs: Vec<String>,
    pub fingerprint: Fingerprint,
}

/// A service as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// It ran before: what it keeps is there.
    pub exists: bool,
    /// The fingerprint it was started with, where it runs.
    pub running: Option<Fingerprint>,
    /// The fingerprint it was made with, where it does not run and would be
    /// started as it is.
    pub resting: Option<Fingerprint>,
}

/// Whether a running service that differs from what is wanted is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// Where it differs.
    #[default]
    Auto,
    /// Not even then.
    Never,
    /// Even where it does not.
    Force,
}

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It has never run: made, then started.
    Create,
    /// It is there and does not run.
    Start,
    /// It is there, and is stopped, made and started anew.
    Recreate { because: Vec<String> },
    /// It stays as it is.
    Keep,
}

/// One line of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub service: String,
    pub runtime: Runtime,
    pub action: Action,
}

impl Action {
    /// `recreate`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Recreate { .. } => "recreate",
            Self::Keep => "keep",
        }
    }

    /// Its causes, where it has any.
    #[must_use]
    pub fn because(&self) -> &[String] {
        match self {
            Self::Recreate { because } => because,
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
        step.serialize_field("because", self.action.because())?;
        step.end()
    }
}

/// Steps in an order in which every service comes after all that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    #[serde(rename = "plan")]
    pub steps: Vec<Step>,
}

/// Why there can be no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("{service} needs {needs}, which is no service")]
    UnknownNeed { service: String, needs: String },
    #[error("the services need each other in a circle: {}", .0.join(" needs "))]
    Cycle(Vec<String>),
}

impl Failure for PlanError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownNeed { .. } => "unknown_need",
            Self::Cycle(_) => "cyclic_needs",
        }
    }
}

impl Plan {
    /// Whether every service stays as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| step.action == Action::Keep)
    }
}

/// Decides what happens to each service.
///
/// # Errors
/// When a service needs one that is not there, or itself through others.
pub fn plan(
    desired: &[Desired],
    observed: &BTreeMap<String, Observed>,
    recreate: Recreate,
) -> Result<Plan, PlanError> {
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
        (None, _) => at_rest(desired, observed),
        (Some(_), Recreate::Never) => Action::Keep,
        (Some(_), Recreate::Force) => Action::Recreate {
            because: vec!["forced".to_owned()],
        },
        (Some(running), Recreate::Auto) => {
            let because = differences(running, &desired.fingerprint);
            if because.is_empty() {
                Action::Keep
            } else {
                Action::Recreate { because }
            }
        }
    }
}

/// What does not run is started, anew where it would not start as wanted.
fn at_rest(desired: &Desired, observed: &Observed) -> Action {
    let because = observed
        .resting
        .as_ref()
        .map(|made| differences(made, &desired.fingerprint))
        .unwrap_or_default();
    match observed.exists {
        _ if !because.is_empty() => Action::Recreate { because },
        true => Action::Start,
        false => Action::Create,
    }
}

/// `env.TZ changed`, `env.TZ added`, `env.TZ removed`.
fn differences(running: &Fingerprint, wanted: &Fingerprint) -> Vec<String> {
    let keys: BTreeSet<&String> = running.keys().chain(wanted.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (running.get(key), wanted.get(key)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(_), Some(_)) => Some(format!("{key} changed")),
            (None, _) => Some(format!("{key} added")),
            (_, None) => Some(format!("{key} removed")),
        })
        .collect()
}

/// The services so that each comes after all that it needs; among those that
/// are free to go first, in the order given.
///
/// # Errors
/// As [`plan`].
pub fn order(desired: &[Desired]) -> Result<Vec<&Desired>, PlanError> {
    let by_name: BTreeMap<&str, &Desired> =
        desired.iter().map(|one| (one.name.as_str(), one)).collect();
    for service in desired {
        if let Some(needs) = service
            .needs
            .iter()
            .find(|need| !by_name.contains_key(need.as_str()))
        {
            return Err(PlanError::UnknownNeed {
                service: service.name.clone(),
                needs: needs.clone(),
            });
        }
    }
    let mut placed = BTreeSet::new();
    let mut ordered = Vec::with_capacity(desired.len());
    while ordered.len() < desired.len() {
        let next = desired.iter().find(|one| {
            let ready = one.needs.iter().all(|need| placed.contains(need.as_str()));
            ready && !placed.contains(one.name.as_str())
        });
        let Some(next) = next else {
            return Err(PlanError::Cycle(circle(desired, &placed, &by_name)));
        };
        placed.insert(next.name.as_str());
        ordered.push(next);
    }
    Ok(ordered)
}

/// Walks along unmet needs until a service comes up for the second time.
fn circle(
    desired: &[Desired],
    placed: &BTreeSet<&str>,
    by_name: &BTreeMap<&str, &Desired>,
) -> Vec<String> {
    let mut walked: Vec<String> = Vec::new();
    let mut at = desired
        .iter()
        .find(|one| !placed.contains(one.name.as_str()));
    while let Some(service) = at {
        let seen = walked.iter().position(|name| *name == service.name);
        walked.push(service.name.clone());
        if let Some(start) = seen {
            return walked.split_off(start);
        }
        let unmet = service
            .needs
            .iter()
            .find(|need| !placed.contains(need.as_str()));
        at = unmet.and_then(|need| by_name.get(need.as_str()).copied());
    }
    walked
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
            resting: None,
        }
    }

    #[test]
    fn what_was_never_there_is_created_and_what_rests_is_started() {
        let redis = || service("redis", &[], &[]);
        let resting = Observed {
            exists: true,
            ..Observed::default()
        };
        assert_eq!(
            action_of(redis(), Observed::default(), Recreate::Auto),
            Action::Create
        );
        assert_eq!(
            action_of(redis(), resting.clone(), Recreate::Auto),
            Action::Start
        );
        assert_eq!(action_of(redis(), resting, Recreate::Force), Action::Start);
    }

    #[test]
    fn what_runs_as_wanted_is_kept() {
        let redis = service("redis", &[], &[("command", "1")]);
        assert_eq!(
            action_of(redis, running(&[("command", "1")]), Recreate::Auto),
            Action::Keep
        );
    }

    #[test]
    fn every_difference_is_a_cause() {
        let redis = || {
            service(
                "redis",
                &[],
                &[("command", "1"), ("env.A", "1"), ("env.B", "1")],
            )
        };
        let found = || running(&[("command", "1"), ("env.A", "2"), ("env.C", "1")]);
        let because = ["env.A changed", "env.B added", "env.C removed"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            action_of(redis(), found(), Recreate::Auto),
            Action::Recreate { because }
        );
        assert_eq!(action_of(redis(), found(), Recreate::Never), Action::Keep);
    }

    #[test]
    fn what_rests_and_was_made_otherwise_is_made_anew() {
        let redis = || service("redis", &[], &[("env.A", "1")]);
        let made_with = |value| Observed {
            exists: true,
            running: None,
            resting: Some(fingerprint(&[("env.A", value)])),
        };
        assert_eq!(
            action_of(redis(), made_with("1"), Recreate::Auto),
            Action::Start
        );
        let because = vec!["env.A changed".to_owned()];
        assert_eq!(
            action_of(redis(), made_with("2"), Recreate::Never),
            Action::Recreate { because }
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
    fn an_unknown_need_is_told() {
        let error = order(&[service("connect", &["kafca"], &[])]).expect_err("no kafca");
        assert_eq!(
            error.to_string(),
            "connect needs kafca, which is no service"
        );
    }

    #[test]
    fn a_circle_is_told_in_full() {
        let services = [
            service("free", &[], &[]),
            service("outer", &["a"], &[]),
            service("a", &["free", "b"], &[]),
            service("b", &["a"], &[]),
        ];
        let error = order(&services).expect_err("a circle");
        assert_eq!(
            error.to_string(),
            "the services need each other in a circle: a needs b needs a"
        );
    }

    /// Up to 12 services, each needing some that come before it, shuffled.
    fn services() -> impl Strategy<Value = Vec<Desired>> {
        let needs = prop::collection::vec(
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            1..12,
        );
        needs
            .prop_map(|all| {
                let name = |index: usize| format!("s{index}");
                let one = |(index, needs): (usize, Vec<prop::sample::Index>)| Desired {
                    name: name(index),
                    runtime: Runtime::Native,
                    needs: match index {
                        0 => Vec::new(),
                        _ => needs.iter().map(|need| name(need.index(index))).collect(),
                    },
                    fingerprint: Fingerprint::new(),
                };
                all.into_iter().enumerate().map(one).collect::<Vec<_>>()
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
