//! A support bundle: one document with all facts for a remote diagnosis, without secrets.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::{ConfigProblem, finding::Finding};
use crate::{
    config::{Config, Runtime},
    failure::chain,
    operations::status,
    secret::Redactor,
    stack::{Site, State, choice, docker::labels::ResourceLabels, logs, selection},
    time::{clock::now_us, timestamp::Rfc3339},
};

/// Format of the document.
const FORMAT: u16 = 1;

/// Number of lines of each service's log.
const LINES: usize = 200;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Bundle {
    format: u16,
    version: &'static str,
    /// RFC 3339.
    time: String,
    project: String,
    system: String,
    findings: Vec<Finding>,
    /// Values and their origins by dotted key, with secrets masked.
    config: BTreeMap<String, (Json, String)>,
    /// Error of the configuration, if it is unusable.
    config_problem: Option<String>,
    /// The document of `fanout status`.
    status: Json,
    /// Last lines of the logs by service.
    logs: BTreeMap<String, Vec<String>>,
}

/// Collects a [`Bundle`] and removes every secret from it. Omits what cannot be read.
///
/// # Errors
/// If the document cannot be serialised.
pub async fn bundle(
    site: &Site,
    config: Result<&Config, &ConfigProblem>,
    findings: Vec<Finding>,
) -> Result<Json, serde_json::Error> {
    let bundle = Box::pin(collect(site, config, findings)).await;
    let mut document = serde_json::to_value(bundle)?;
    redactor(site, config.ok()).redact_document(&mut document);
    Ok(document)
}

async fn collect(
    site: &Site,
    config: Result<&Config, &ConfigProblem>,
    findings: Vec<Finding>,
) -> Bundle {
    let status = match config {
        Ok(config) => match Box::pin(status::status(site, config)).await {
            Ok(report) => serde_json::to_value(report).unwrap_or_default(),
            Err(error) => Json::String(chain(&error)),
        },
        Err(_) => Json::Null,
    };
    Bundle {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        time: Rfc3339(now_us()).to_string(),
        project: site.project.to_string(),
        system: system(),
        findings,
        config: config.map(values).unwrap_or_default(),
        config_problem: config.err().map(|problem| problem.message.clone()),
        status,
        logs: tails(site).await,
    }
}

fn system() -> String {
    match nix::sys::utsname::uname() {
        Ok(name) => format!(
            "{} {} {}",
            name.sysname().to_string_lossy(),
            name.release().to_string_lossy(),
            name.machine().to_string_lossy()
        ),
        Err(error) => error.to_string(),
    }
}

fn values(config: &Config) -> BTreeMap<String, (Json, String)> {
    let entry = |value: &crate::config::Value| {
        let shown = (value.masked(), value.origin.to_string());
        (value.key.clone(), shown)
    };
    config.values.iter().map(entry).collect()
}

/// Returns a redactor for all known secrets: those of the configuration, and those in the
/// project's state.
fn redactor(site: &Site, config: Option<&Config>) -> Redactor {
    let mut redactor = config
        .map(|config| config.settings.redactor())
        .unwrap_or_default();
    let recorded = State::load(&site.dir()).ok().flatten();
    let recorded = recorded.map(|state| state.settings).unwrap_or_default();
    for url in recorded.into_values() {
        redactor.add(&url.reveal().into());
    }
    redactor
}

async fn tails(site: &Site) -> BTreeMap<String, Vec<String>> {
    let services = selection::definitions().unwrap_or_default();
    let mut tails: BTreeMap<String, Vec<String>> = services
        .into_iter()
        .map(|service| {
            let lines = logs::last_lines(&site.dir().log(&service.name), LINES);
            (service.name, lines)
        })
        .collect();
    tails.extend(container_tails(site).await);
    tails
}

/// Returns the last log lines of services in containers, if their engine responds.
async fn container_tails(site: &Site) -> BTreeMap<String, Vec<String>> {
    let mut tails = BTreeMap::new();
    let Ok(Some(state)) = State::load(&site.dir()) else {
        return tails;
    };
    let Ok(Some(engine)) = choice::engine_of(site, Some(&state)).await else {
        return tails;
    };
    let labels = ResourceLabels::new(site);
    let services = state.services.into_iter();
    for (name, _) in services.filter(|(_, service)| service.runtime == Runtime::Docker) {
        let lines = engine
            .log(&labels.container(&name), Some(LINES), None)
            .await;
        let lines = lines.unwrap_or_default().into_iter();
        tails.insert(name, lines.map(|line| line.text).collect());
    }
    tails
}
