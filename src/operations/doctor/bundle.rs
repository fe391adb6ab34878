//! All that somebody far away needs to see, in one document without secrets.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::{ConfigProblem, Finding};
use crate::{
    clients::postgres,
    clock::now_us,
    config::Config,
    failure::chain,
    operations::status,
    secret::{MASK, masked_url},
    stack::{Site, blueprint, logs},
    timestamp::Rfc3339,
};

/// Format of the document.
const FORMAT: u16 = 1;

/// Lines of each service's log.
const LINES: usize = 200;

/// Shorter passwords are words that stand in any log.
const SHORTEST_SECRET: usize = 4;

/// What is handed on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bundle {
    pub format: u16,
    pub version: &'static str,
    /// RFC 3339.
    pub time: String,
    pub project: String,
    pub system: String,
    pub findings: Vec<Finding>,
    /// Dotted key → value and where it came from; passwords masked.
    pub config: BTreeMap<String, (Json, String)>,
    /// Why there is no configuration.
    pub config_problem: Option<String>,
    /// As `fanout status` has it.
    pub status: Json,
    /// Service → the end of its log.
    pub logs: BTreeMap<String, Vec<String>>,
}

/// Gathers it. What cannot be had is left out.
pub async fn bundle(
    site: &Site,
    config: Result<&Config, &ConfigProblem>,
    findings: Vec<Finding>,
) -> Bundle {
    let status = match config {
        Ok(config) => match status::status(site, config).await {
            Ok(report) => serde_json::to_value(report).unwrap_or_default(),
            Err(error) => Json::String(chain(&error)),
        },
        Err(_) => Json::Null,
    };
    let secrets = config.map(secrets).unwrap_or_default();
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
        logs: tails(site, &secrets),
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
    let masked = |value: &crate::config::Value| {
        let shown = (mask(&value.key, &value.value), value.origin.to_string());
        (value.key.clone(), shown)
    };
    config.values.iter().map(masked).collect()
}

/// Masks passwords in URLs, and what is called like a secret.
fn mask(key: &str, value: &Json) -> Json {
    let key = key.to_lowercase();
    let secret = ["password", "secret", "token"]
        .iter()
        .any(|word| key.contains(word));
    match value {
        Json::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), mask(name, value)))
            .collect(),
        Json::String(_) if secret => MASK.into(),
        Json::String(text) => masked_url(text).into(),
        other => other.clone(),
    }
}

/// The passwords there are, to be struck out of logs.
fn secrets(config: &Config) -> Vec<String> {
    let settings = &config.settings;
    let mut secrets: Vec<String> = [
        &settings.clickhouse.url,
        &settings.redis.url,
        &settings.external.url,
    ]
    .iter()
    .filter_map(|text| url::Url::parse(text).ok()?.password().map(str::to_owned))
    .collect();
    if let Ok(address) = postgres::address(&settings.postgres.url) {
        secrets.push(address.password.reveal().to_owned());
    }
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    secrets
}

fn tails(site: &Site, secrets: &[String]) -> BTreeMap<String, Vec<String>> {
    let services = blueprint::definitions().unwrap_or_default();
    let tail = |name: String| {
        let lines = logs::last_lines(&site.dir().log(&name), LINES);
        let lines = lines.into_iter().map(|line| strike(line, secrets));
        (name, lines.collect())
    };
    services.into_iter().map(|one| tail(one.name)).collect()
}

fn strike(line: String, secrets: &[String]) -> String {
    secrets
        .iter()
        .fold(line, |line, secret| line.replace(secret, MASK))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_secret_is_handed_on() {
        let masked = mask("clickhouse.url", &json!("http://app:geheim@h:1"));
        assert_eq!(masked, json!("http://app:****@h:1"));
        let masked = mask(
            "connector.properties",
            &json!({"database.password": "geheim", "poll.interval.ms": "20"}),
        );
        assert_eq!(
            masked,
            json!({"database.password": "****", "poll.interval.ms": "20"})
        );
        let line = strike("login geheim failed".to_owned(), &["geheim".to_owned()]);
        assert_eq!(line, "login **** failed");
    }
}
