//! Placeholder values that every definition may use, however the service is
//! run.
//!
//! | name | value |
//! |---|---|
//! | `port`, `port.NAME` | the service's ports on this machine |
//! | `project` | the project's name |
//! | `postgres.user` `.password` `.database`, `clickhouse.user` `.password`, `redis.password` | parts of the URLs |
//! | `connector.secrets` | lines of a properties file: the connector's secret properties |
//! | `section.name` | any setting, with the resolved endpoint of every service |
//! | `limits.partition_bytes` | `limits.partition_mib`, in bytes |

use serde_json::Value as Json;

use super::{definition::MAIN_PORT, endpoint, resolve::Service};
use crate::{config::Settings, text::template::Values};

/// Returns the values of one service.
pub(super) fn common_values(
    service: &Service,
    settings: &Settings,
) -> Result<Values, serde_json::Error> {
    let mut values = flatten_settings(settings)?;
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

/// Returns the settings as strings, by dotted key. The `services` section is
/// left out, because its names are the user's.
pub(super) fn flatten_settings(settings: &Settings) -> Result<Values, serde_json::Error> {
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

/// Credentials that are written into the files of services: name, the setting
/// that contains it, and the characters that would end it or change its
/// meaning.
const FILE_CREDENTIALS: [(&str, &str, &str); 5] = [
    ("postgres.user", "postgres.url", "\"\\"),
    ("postgres.password", "postgres.url", "\"\\"),
    ("postgres.database", "postgres.url", "\"\\"),
    ("clickhouse.user", "clickhouse.url", NOT_IN_SECTION_NAME),
    ("redis.password", "redis.url", "\"\\"),
];

/// Name of the superuser in a Postgres that fanout runs.
const POSTGRES_SUPERUSER: &str = "fanout_superuser";

/// Characters not allowed in a section name of ClickHouse's configuration.
const NOT_IN_SECTION_NAME: &str = " !\"#$%&'()*+,./:;<=>?@[\\]^`{|}~";

/// Returns the first credential used in `texts` that cannot be written there:
/// its setting, its name, and the reason.
pub(super) fn unwritable(texts: &[&str], values: &Values) -> Option<(String, String, String)> {
    FILE_CREDENTIALS
        .iter()
        .find_map(|(name, setting, forbidden)| {
            let placeholder = format!("{{{{{name}}}}}");
            let value = values.get(*name)?;
            if !texts.iter().any(|text| text.contains(&placeholder)) {
                return None;
            }
            let reason = if *name == "postgres.user" && value == POSTGRES_SUPERUSER {
                "is the name of the server's superuser".to_owned()
            } else if value.starts_with(char::is_whitespace) {
                "starts with whitespace".to_owned()
            } else if value.contains(char::is_control) {
                "contains a control character".to_owned()
            } else {
                let character = value.chars().find(|letter| forbidden.contains(*letter))?;
                format!("contains `{character}`")
            };
            Some(((*setting).to_owned(), (*name).replace('.', "'s "), reason))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_would_break_a_file_is_refused_if_the_file_uses_it() {
        let refused = |text, name: &str, value: &str| {
            let values = Values::from([(name.to_owned(), value.to_owned())]);
            unwritable(&[text], &values).map(|(_, _, reason)| reason)
        };
        let redis = "requirepass \"{{redis.password}}\"";
        assert_eq!(refused(redis, "redis.password", "p w#{$'ä="), None);
        let reason = refused(redis, "redis.password", "p\"w");
        assert_eq!(reason.as_deref(), Some("contains `\"`"));
        let reason = refused(redis, "redis.password", "p\nw");
        assert_eq!(reason.as_deref(), Some("contains a control character"));
        assert_eq!(refused("nothing", "redis.password", "p\"w"), None);
        let role = "CREATE ROLE \"{{postgres.user}}\"";
        assert_eq!(refused(role, "postgres.user", "app"), None);
        let reason = refused(role, "postgres.user", "fanout_superuser");
        assert_eq!(
            reason.as_deref(),
            Some("is the name of the server's superuser")
        );
        let reason = refused("{{clickhouse.user}}", "clickhouse.user", "a.b");
        assert_eq!(reason.as_deref(), Some("contains `.`"));
    }
}
