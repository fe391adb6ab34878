//! Checks a configuration whose values have valid types for unknown services and ports, and for
//! malformed addresses. Some command would reject them later; this check reports them
//! immediately.

use crate::{
    config::Settings,
    connections::{clickhouse, postgres},
    failure::{Command, Error, Kind},
    secret::SecretUrl,
    stack::{definition, endpoint::host_and_port, resolve},
};

fn refused(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, code, message).with_hint(Command::new("config show"))
}

/// Checks the names of services and ports, and every address.
///
/// # Errors
/// For the first value that is wrong.
pub fn check(settings: &Settings) -> Result<(), Error> {
    resolve::check_names(&definition::services()?, settings)?;
    postgres::address(&settings.postgres.url)
        .map_err(|error| refused("postgres_url", "postgres.url cannot be read").caused_by(error))?;
    clickhouse::Endpoint::at(&settings.clickhouse.url).map_err(|error| {
        refused("clickhouse_url", "clickhouse.url cannot be read").caused_by(error)
    })?;
    let http = "URL such as http://127.0.0.1:8083";
    for (key, url) in [
        ("connect.url", &settings.connect.url),
        ("external.url", &settings.external.url),
        ("http.url", &settings.http.url),
    ] {
        address(key, http, is_url(url, &["http", "https"]))?;
    }
    let redis = is_url(&settings.redis.url, &["redis", "rediss"]);
    address("redis.url", "URL such as redis://127.0.0.1:6379", redis)?;
    let mut brokers = settings.kafka.brokers.split(',');
    let is_valid = brokers.all(|broker| host_and_port(broker).is_some());
    address("kafka.brokers", "list such as 127.0.0.1:19092", is_valid)
}

fn is_url(url: &SecretUrl, schemes: &[&str]) -> bool {
    url::Url::parse(url.reveal()).is_ok_and(|url| url.has_host() && schemes.contains(&url.scheme()))
}

fn address(key: &str, expected: &str, readable: bool) -> Result<(), Error> {
    if readable {
        return Ok(());
    }
    Err(refused("endpoint", format!("{key} is no {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure as _;

    #[test]
    fn the_defaults_are_valid_and_each_mistake_is_reported() {
        assert!(check(&Settings::default()).is_ok());
        let mut settings = Settings::default();
        settings.postgres.url = "postgres://h:port".into();
        let error = check(&settings).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        let mut settings = Settings::default();
        settings.connect.url = "127.0.0.1:8083".into();
        let error = check(&settings).expect_err("refused").to_string();
        assert!(error.starts_with("connect.url is no URL"), "{error}");
        let mut settings = Settings::default();
        settings.kafka.brokers = "a:1,b".to_owned();
        assert!(check(&settings).is_err());
    }
}
