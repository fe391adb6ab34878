//! What the texts of any definition may name, however the service is run.
//!
//! | name | is |
//! |---|---|
//! | `port`, `port.NAME` | the service's own ports on this machine |
//! | `project` | whose it is |
//! | `postgres.user` `.password` `.database`, `clickhouse.user` `.password`, `redis.password` | parts of the URLs |
//! | `connector.secrets` | lines of a properties file: the connector's secret properties |
//! | `section.name` | any setting, with every service where it shall be |
//! | `limits.partition_bytes` | `limits.partition_mib`, in bytes |

use serde_json::Value as Json;

use super::{definition::MAIN_PORT, endpoint, resolve::Service};
use crate::{config::Settings, template::Values};

/// The values of one service.
pub(super) fn of(service: &Service, settings: &Settings) -> Result<Values, serde_json::Error> {
    let mut values = flat(settings)?;
    values.extend(credentials(settings));
    let partition_bytes = settings.limits.partition_mib.saturating_mul(1 << 20);
    values.insert(
        "limits.partition_bytes".to_owned(),
        partition_bytes.to_string(),
    );
    for (port, number) in &service.ports {
        let key = match port.as_str() {
            MAIN_PORT => "port".to_owned(),
            other => format!("port.{other}"),
        };
        values.insert(key, number.to_string());
    }
    Ok(values)
}

fn credentials(settings: &Settings) -> Values {
    let (postgres_user, postgres_password, database) =
        endpoint::credentials(settings.postgres.url.reveal());
    let (clickhouse_user, clickhouse_password, _) =
        endpoint::credentials(settings.clickhouse.url.reveal());
    let (_, redis_password, _) = endpoint::credentials(settings.redis.url.reveal());
    [
        ("postgres.user", postgres_user),
        ("postgres.password", postgres_password),
        ("postgres.database", database),
        ("clickhouse.user", clickhouse_user),
        ("clickhouse.password", clickhouse_password),
        ("redis.password", redis_password),
        ("connector.secrets", settings.connector.secret_lines()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Settings by dotted key, as texts. What is the user's own words stays out.
pub(super) fn flat(settings: &Settings) -> Result<Values, serde_json::Error> {
    let Json::Object(sections) = serde_json::to_value(settings)? else {
        return Ok(Values::new());
    };
    let mut values = Values::new();
    for (section, content) in sections {
        let Json::Object(fields) = content else {
            continue;
        };
        if section == "services" {
            continue;
        }
        for (name, value) in fields {
            let text = match value {
                Json::String(text) => text,
                other => other.to_string(),
            };
            values.insert(format!("{section}.{name}"), text);
        }
    }
    Ok(values)
}

/// Credentials that the files of services are made of, the setting each is
/// part of, and what would end it, or be something else, in one of them.
const WRITTEN: [(&str, &str, &str); 5] = [
    ("postgres.user", "postgres.url", "\"\\"),
    ("postgres.password", "postgres.url", "\"\\"),
    ("postgres.database", "postgres.url", "\"\\"),
    ("clickhouse.user", "clickhouse.url", NO_NAME),
    ("redis.password", "redis.url", "\"\\"),
];

/// The superuser of a Postgres that fanout runs.
const POSTGRES_SUPERUSER: &str = "fanout_superuser";

/// In the name of a section of ClickHouse's configuration.
const NO_NAME: &str = " !\"#$%&'()*+,./:;<=>?@[\\]^`{|}~";

/// The first of the credentials named in `texts` that cannot be written there:
/// its setting, its name, and why.
pub(super) fn unwritable(texts: &[&str], values: &Values) -> Option<(String, String, String)> {
    WRITTEN.iter().find_map(|(name, setting, forbidden)| {
        let placeholder = format!("{{{{{name}}}}}");
        let value = values.get(*name)?;
        if !texts.iter().any(|text| text.contains(&placeholder)) {
            return None;
        }
        let why = if *name == "postgres.user" && value == POSTGRES_SUPERUSER {
            "is the name of the server's superuser".to_owned()
        } else if value.starts_with(char::is_whitespace) {
            "begins with a blank".to_owned()
        } else if value.contains(char::is_control) {
            "has a control character".to_owned()
        } else {
            let wrong = value.chars().find(|letter| forbidden.contains(*letter))?;
            format!("has a `{wrong}`")
        };
        Some(((*setting).to_owned(), (*name).replace('.', "'s "), why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_would_break_a_file_is_refused_where_it_is_written() {
        let refused = |text, name: &str, value: &str| {
            let values = Values::from([(name.to_owned(), value.to_owned())]);
            unwritable(&[text], &values).map(|(_, _, why)| why)
        };
        let redis = "requirepass \"{{redis.password}}\"";
        assert_eq!(refused(redis, "redis.password", "p w#{$'ä="), None);
        let why = refused(redis, "redis.password", "p\"w");
        assert_eq!(why.as_deref(), Some("has a `\"`"));
        let why = refused(redis, "redis.password", "p\nw");
        assert_eq!(why.as_deref(), Some("has a control character"));
        assert_eq!(refused("nothing", "redis.password", "p\"w"), None);
        let role = "CREATE ROLE \"{{postgres.user}}\"";
        assert_eq!(refused(role, "postgres.user", "app"), None);
        let why = refused(role, "postgres.user", "fanout_superuser");
        assert_eq!(
            why.as_deref(),
            Some("is the name of the server's superuser")
        );
        let why = refused("{{clickhouse.user}}", "clickhouse.user", "a.b");
        assert_eq!(why.as_deref(), Some("has a `.`"));
    }
}
