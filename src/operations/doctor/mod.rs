//! What the machine and the servers have to offer, looked at before something
//! fails for the want of it: each precondition with its fix.

mod bundle;
mod finding;
mod machine;
mod source;
mod topics;

pub use bundle::bundle;
pub use finding::{Finding, Level};

use super::status::{self, ServiceState, ServiceStatus};
use crate::{
    config::{Config, Runtime},
    connections::Connections,
    progress::{Progress, steps::Steps},
    stack::Site,
};

/// A configuration that cannot be used, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    pub message: String,
    pub hint: Option<String>,
}

/// Looks at everything. Nothing is changed, and a thing that cannot be looked
/// at is a finding of its own.
pub async fn examine(
    site: &Site,
    config: Result<&Config, &ConfigProblem>,
    progress: &dyn Progress,
) -> Vec<Finding> {
    let steps = Steps::new(progress, "doctor");
    let config = match config {
        Ok(config) => config,
        Err(problem) => {
            return vec![Finding::fail(
                "configuration",
                problem.message.clone(),
                problem.hint.clone(),
            )];
        }
    };
    let evidence = format!("{} values, all valid", config.values.len());
    let mut findings = vec![Finding::pass("configuration", evidence)];
    steps.doing("looking at the machine");
    findings.extend(machine::examine(site, config).await);
    steps.doing("looking at the servers");
    // That the state cannot be read is found elsewhere.
    let report = Box::pin(status::status(site, config)).await.ok();
    let services = report.map(|report| report.services).unwrap_or_default();
    let is_kafka = |one: &ServiceStatus| one.name == "kafka" && one.state == ServiceState::Ready;
    let kafka_answers = services.iter().any(is_kafka);
    let is_ours = |one: &ServiceStatus| one.name == "kafka" && one.runtime != Runtime::External;
    let kafka_is_ours = services.iter().any(is_ours);
    findings.extend(externals(services));
    let connections = Connections::of(&config.settings);
    findings.extend(source::examine(site, config, &connections, kafka_answers).await);
    if kafka_answers {
        findings.extend(topics::examine(&connections, kafka_is_ours).await);
    }
    steps.done("examined");
    findings
}

/// Servers that are not fanout's have to be there already.
fn externals(services: Vec<ServiceStatus>) -> Vec<Finding> {
    let external = |service: &ServiceStatus| service.runtime == Runtime::External;
    let services = services.into_iter().filter(external);
    services.map(of_external).collect()
}

fn of_external(service: ServiceStatus) -> Finding {
    let name = format!("{}: external", service.name);
    let fix = || Some("make sure that it runs; where it is says: fanout config show".to_owned());
    match service.problem {
        None => Finding::pass(name, service.url.to_string()),
        Some(problem) => Finding::fail(name, format!("{}: {problem}", service.url), fix()),
    }
}

/// The gravest level among the findings.
#[must_use]
pub fn gravest(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_counts() {
        let pass = Finding::pass("a", "b");
        let warn = Finding::warn("a", "b", "c");
        let fail = Finding::fail("a", "b", None);
        assert_eq!(gravest(&[]), Level::Pass);
        assert_eq!(gravest(&[pass.clone(), warn.clone()]), Level::Warn);
        assert_eq!(gravest(&[fail, pass, warn]), Level::Fail);
    }
}
