//! All that the texts of a definition may name.
//!
//! | name | is |
//! |---|---|
//! | `port`, `port.NAME` | the service's own ports |
//! | `data`, `conf` | its folders |
//! | `program.NAME`, `install.NAME` | what its way asks for |
//! | `project`, `home`, `config`, `fanout` | whose it is, and this program |
//! | `unique` | random, another each time |
//! | `postgres.user` `.password` `.database`, `clickhouse.user` `.password`, `redis.password` | parts of the URLs |
//! | `section.name` | any setting, with every service where it shall be |

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value as Json;

use super::recipe::Kitchen;
use crate::{
    config::Settings,
    stack::{
        definition::{MAIN_PORT, Way},
        endpoint,
        resolve::Service,
    },
    template::Values,
};

/// Values that differ from place to place without making another service.
pub(super) const PLACES: [&str; 5] = ["data", "conf", "home", "config", "unique"];

/// The values for one service, run in one way.
pub(super) fn of(
    service: &Service,
    way: &Way,
    programs: &BTreeMap<String, PathBuf>,
    kitchen: &Kitchen<'_>,
) -> Result<Values, serde_json::Error> {
    let mut values = flat(kitchen.settings)?;
    values.extend(credentials(kitchen.settings));
    values.extend(places(service, way, kitchen));
    for (port, number) in &service.ports {
        let key = match port.as_str() {
            MAIN_PORT => "port".to_owned(),
            other => format!("port.{other}"),
        };
        values.insert(key, number.to_string());
    }
    for program in way.programs.keys() {
        let place = programs.get(program);
        let place = place.map_or_else(|| program.clone(), |path| path.display().to_string());
        values.insert(format!("program.{program}"), place);
    }
    for install in &way.installs {
        if let Some(described) = kitchen.installs.get(install) {
            let folder = kitchen.site.install_folder(described);
            values.insert(format!("install.{install}"), folder.display().to_string());
        }
    }
    Ok(values)
}

fn places(service: &Service, way: &Way, kitchen: &Kitchen<'_>) -> Values {
    let name = &service.definition.name;
    let site = kitchen.site;
    let dir = site.dir();
    let config = site.config_file.as_ref();
    [
        ("data", dir.data(name, &way.variant).display().to_string()),
        ("conf", dir.conf(name).display().to_string()),
        ("home", site.home.path().display().to_string()),
        ("project", site.project.to_string()),
        ("fanout", site.fanout.display().to_string()),
        (
            "config",
            config
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ),
        ("unique", unique()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn credentials(settings: &Settings) -> Values {
    let (postgres_user, postgres_password, database) =
        endpoint::credentials(&settings.postgres.url);
    let (clickhouse_user, clickhouse_password, _) = endpoint::credentials(&settings.clickhouse.url);
    let (_, redis_password, _) = endpoint::credentials(&settings.redis.url);
    [
        ("postgres.user", postgres_user),
        ("postgres.password", postgres_password),
        ("postgres.database", database),
        ("clickhouse.user", clickhouse_user),
        ("clickhouse.password", clickhouse_password),
        ("redis.password", redis_password),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Credentials that the files of services are made of, the setting each is
/// part of, and what would end it, or be something else, in one of them.
const WRITTEN: [(&str, &str, &str); 4] = [
    ("postgres.password", "postgres.url", "\"\\"),
    ("postgres.database", "postgres.url", "\"\\"),
    ("clickhouse.user", "clickhouse.url", NO_NAME),
    ("redis.password", "redis.url", "\"\\"),
];

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
        let why = if value.starts_with(char::is_whitespace) {
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

/// 16 random bytes in the form that Kafka's ids have: 22 letters of base64.
fn unique() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}A", &random[..21])
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
        let why = refused("{{clickhouse.user}}", "clickhouse.user", "a.b");
        assert_eq!(why.as_deref(), Some("has a `.`"));
    }
}
