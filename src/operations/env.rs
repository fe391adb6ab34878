//! `env`: the addresses of the project's servers, as environment variables for fanout and other
//! programs.

use serde::Serialize;

use crate::{
    config::{Config, Settings, variable},
    failure::Error,
    secret::SecretUrl,
    sink_kind::SinkKind,
    stack::{State, definition, reach::has_known_address},
    text::escape::shell_quoted,
};

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    pub name: String,
    /// `None` if the service was neither started nor configured.
    pub value: Option<String>,
}

/// Value of a variable.
enum Value<'a> {
    Url(&'a SecretUrl),
    Name(&'a str),
}

/// Settings of a service, with functions that return their values.
type Keys = [(&'static str, fn(&Settings) -> Value<'_>)];

/// Settings of the services of the source: their addresses.
const OF_SOURCE: [(&str, &Keys); 3] = [
    (
        "postgres",
        &[("postgres.url", |all| Value::Url(&all.postgres.url))],
    ),
    (
        "kafka",
        &[("kafka.brokers", |all| Value::Name(&all.kafka.brokers))],
    ),
    (
        "connect",
        &[("connect.url", |all| Value::Url(&all.connect.url))],
    ),
];

const REDIS: &Keys = &[
    ("redis.url", |all| Value::Url(&all.redis.url)),
    ("board.key", |all| Value::Name(&all.board.key)),
];

const CLICKHOUSE: &Keys = &[
    ("clickhouse.url", |all| Value::Url(&all.clickhouse.url)),
    ("clickhouse.database", |all| {
        Value::Name(&all.clickhouse.database)
    }),
];

const EXTERNAL: &Keys = &[("external.url", |all| Value::Url(&all.external.url))];

/// Returns the service of a sink and its settings: the address, and the names of its data.
fn of_sink(sink: SinkKind) -> (&'static str, &'static Keys) {
    let keys = match sink {
        SinkKind::Redis => REDIS,
        SinkKind::ClickHouse => CLICKHOUSE,
        SinkKind::Http => EXTERNAL,
    };
    (sink.service(), keys)
}

/// Returns the variables. Passwords are masked unless `show_secrets`.
///
/// # Errors
/// If the definitions are inconsistent.
pub fn variables(
    config: &Config,
    state: Option<&State>,
    show_secrets: bool,
) -> Result<Vec<Variable>, Error> {
    let shown = |value: Value| match value {
        Value::Url(url) if show_secrets => url.reveal().to_owned(),
        Value::Url(url) => url.to_string(),
        Value::Name(name) => name.to_owned(),
    };
    let definitions = definition::services()?;
    let placed = |service: &str| {
        let mut definitions = definitions.iter();
        let definition = definitions.find(|one| one.name == service);
        definition.is_some_and(|one| has_known_address(one, config, state))
    };
    let settings = &config.settings;
    let mut variables = Vec::new();
    for (service, keys) in OF_SOURCE.into_iter().chain(SinkKind::ALL.map(of_sink)) {
        let placed = placed(service);
        variables.extend(keys.iter().map(|(key, value)| Variable {
            name: variable(key),
            value: placed.then(|| shown(value(settings))),
        }));
    }
    // The pipeline's address is always known: it is a setting of the project.
    variables.push(Variable {
        name: variable("http.url"),
        value: Some(shown(Value::Url(&settings.http.url))),
    });
    Ok(variables)
}

/// Returns `export NAME='value'` for a POSIX shell, or `None` for a variable without a value.
#[must_use]
pub fn export_line(variable: &Variable) -> Option<String> {
    let value = variable.value.as_ref()?;
    Some(format!("export {}={}", variable.name, shell_quoted(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, load};

    #[test]
    fn passwords_are_masked_unless_requested_and_defaults_are_omitted() {
        let env = [
            ("FANOUT_POSTGRES_URL", "postgres://app:geheim@db/app"),
            ("FANOUT_CLICKHOUSE_URL", "http://app:geheim@ch:8123"),
        ];
        let layers = Layers {
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Layers::default()
        };
        let config = load(&layers).expect("valid");
        let lines = |show_secrets| {
            let variables = variables(&config, None, show_secrets).expect("definitions");
            let lines: Vec<String> = variables.iter().filter_map(export_line).collect();
            lines
        };
        assert_eq!(
            lines(false),
            [
                "export FANOUT_POSTGRES_URL='postgres://app:****@db/app'",
                "export FANOUT_CLICKHOUSE_URL='http://app:****@ch:8123'",
                "export FANOUT_CLICKHOUSE_DATABASE='analytics'",
                "export FANOUT_HTTP_URL='http://127.0.0.1:9464'",
            ]
        );
        let shown = "export FANOUT_POSTGRES_URL='postgres://app:geheim@db/app'";
        assert_eq!(lines(true)[0], shown);
    }
}
