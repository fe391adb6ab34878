//! `doctor`: checks the preconditions on the machine and on the servers before a command fails.
//! Each finding has a fix.

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

/// Description of an unusable configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    pub message: String,
    pub hint: Option<String>,
}

/// Checks all preconditions. Changes nothing. A failed check is reported as a finding.
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
    steps.doing("checking the machine");
    findings.extend(machine::examine(site, config).await);
    steps.doing("checking the servers");
    // The check of the machine reports an unreadable state.
    let report = Box::pin(status::status(site, config)).await.ok();
    let services = report.map(|report| report.services).unwrap_or_default();
    let kafka = services.iter().find(|service| service.name == "kafka");
    let kafka_answers = kafka.is_some_and(|kafka| kafka.state == ServiceState::Ready);
    let kafka_is_ours = kafka.is_some_and(|kafka| kafka.runtime != Runtime::External);
    findings.extend(externals(services));
    let connections = Connections::of(&config.settings);
    findings.extend(source::examine(site, config, &connections, kafka_answers).await);
    if kafka_answers {
        findings.extend(topics::examine(&connections, kafka_is_ours).await);
    }
    steps.done("checked");
    findings
}

/// Returns the findings of the external servers, which must be running already.
fn externals(services: Vec<ServiceStatus>) -> Vec<Finding> {
    let is_external = |service: &ServiceStatus| service.runtime == Runtime::External;
    let services = services.into_iter().filter(is_external);
    services.map(external_finding).collect()
}

fn external_finding(service: ServiceStatus) -> Finding {
    let name = format!("{}: external", service.name);
    let fix = || Some("make sure that it runs at the address in: fanout config show".to_owned());
    match service.problem {
        None => Finding::pass(name, service.url.to_string()),
        Some(problem) => Finding::fail(name, format!("{}: {problem}", service.url), fix()),
    }
}

/// Returns the most severe level of the findings.
#[must_use]
pub fn gravest(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_level_counts() {
        let pass = Finding::pass("a", "b");
        let warn = Finding::warn("a", "b", "c");
        let fail = Finding::fail("a", "b", None);
        assert_eq!(gravest(&[]), Level::Pass);
        assert_eq!(gravest(&[pass.clone(), warn.clone()]), Level::Warn);
        assert_eq!(gravest(&[fail, pass, warn]), Level::Fail);
    }
}
