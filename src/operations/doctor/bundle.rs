//! All that somebody far away needs to see, in one document without secrets.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::{ConfigProblem, Finding};
use crate::{
    clients::postgres,
    clock::now_us,
    config::{Config, Runtime},
    failure::chain,
    operations::status,
    secret::{MASK, is_secret, masked},
    stack::{Site, State, choice, docker::owner::Owner, logs, selection},
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
        logs: tails(site, &secrets).await,
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
    let shown = |value: &crate::config::Value| {
        let shown = (masked(&value.key, &value.value), value.origin.to_string());
        (value.key.clone(), shown)
    };
    config.values.iter().map(shown).collect()
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
    .flat_map(|encoded| [decoded(&encoded), encoded])
    .collect();
    for value in &config.values {
        named(&value.key, &value.value, &mut secrets);
    }
    if let Ok(url) = url::Url::parse(&settings.postgres.url) {
        secrets.extend(url.password().map(str::to_owned));
    }
    if let Ok(address) = postgres::address(&settings.postgres.url) {
        secrets.push(address.password.reveal().to_owned());
    }
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    // The longest first, so that none is left in pieces.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// A password as a server's log has it, not as a URL writes it.
fn decoded(password: &str) -> String {
    let pair = format!("p={}", password.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map(|(_, text)| text.into_owned())
        .unwrap_or_default()
}

/// What is called like a secret in a setting, at any depth.
fn named(name: &str, value: &Json, secrets: &mut Vec<String>) {
    match value {
        Json::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| named(name, value, secrets)),
        Json::String(text) if is_secret(name) => secrets.push(text.clone()),
        _ => {}
    }
}

async fn tails(site: &Site, secrets: &[String]) -> BTreeMap<String, Vec<String>> {
    let services = selection::definitions().unwrap_or_default();
    let of_file = |name: String| {
        let lines = logs::last_lines(&site.dir().log(&name), LINES);
        (name, lines)
    };
    let mut tails: BTreeMap<String, Vec<String>> =
        services.into_iter().map(|one| of_file(one.name)).collect();
    tails.extend(of_containers(site).await);
    for line in tails.values_mut().flatten() {
        *line = strike(std::mem::take(line), secrets);
    }
    tails
}

/// What services in containers say, as far as their engine answers.
async fn of_containers(site: &Site) -> BTreeMap<String, Vec<String>> {
    let mut tails = BTreeMap::new();
    let Ok(Some(state)) = State::load(&site.dir()) else {
        return tails;
    };
    let Ok(Some(engine)) = choice::engine_of(site, Some(&state)).await else {
        return tails;
    };
    let owner = Owner::of(site);
    let known = state.services.into_iter();
    for (name, _) in known.filter(|(_, known)| known.runtime == Runtime::Docker) {
        let lines = engine.log(&owner.container(&name), Some(LINES), None).await;
        let lines = lines.unwrap_or_default().into_iter();
        tails.insert(name, lines.map(|line| line.text).collect());
    }
    tails
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
        let properties = json!({"database.password": "geheim", "poll.interval.ms": "20"});
        let mut secrets = Vec::new();
        named("connector.properties", &properties, &mut secrets);
        assert_eq!(secrets, ["geheim"]);
        assert_eq!(decoded("p%40%2Bw+"), "p@+w+");
        let line = strike("login geheim failed".to_owned(), &["geheim".to_owned()]);
        assert_eq!(line, "login **** failed");
    }
}
