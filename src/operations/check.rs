//! What a configuration may have wrong although each value is of its type:
//! services and ports that there are not, addresses that nobody can read. Every
//! command would refuse it sooner or later; here it is told at once.

use crate::{
    config::Settings,
    connections::{clickhouse, postgres},
    failure::{Failure, Kind},
    secret::SecretUrl,
    stack::{
        definition::{self, DefinitionError},
        endpoint::host_and_port,
        resolve::{self, ResolveError},
    },
};

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("postgres.url cannot be read")]
    Postgres(#[source] postgres::InvalidUrl),
    #[error("clickhouse.url cannot be read")]
    ClickHouse(#[source] clickhouse::InvalidUrl),
    #[error("{key} is no {expected}")]
    Address {
        key: &'static str,
        expected: &'static str,
    },
}

impl Failure for CheckError {
    fn kind(&self) -> Kind {
        match self {
            Self::Definition(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::Postgres(_) | Self::ClickHouse(_) | Self::Address { .. } => Kind::Usage,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Definition(error) => error.code(),
            Self::Resolve(error) => error.code(),
            Self::Postgres(_) => "postgres_url",
            Self::ClickHouse(_) => "clickhouse_url",
            Self::Address { .. } => "endpoint",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Definition(error) => error.hint(),
            Self::Resolve(error) => error.hint(),
            _ => Some("fanout config show".to_owned()),
        }
    }
}

/// Checks the names of services and ports, and every address.
///
/// # Errors
/// Names the first that is wrong.
pub fn check(settings: &Settings) -> Result<(), CheckError> {
    resolve::check_names(&definition::services()?, settings)?;
    postgres::address(&settings.postgres.url).map_err(CheckError::Postgres)?;
    clickhouse::Endpoint::at(&settings.clickhouse.url).map_err(CheckError::ClickHouse)?;
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
    let readable = brokers.all(|broker| host_and_port(broker).is_some());
    address("kafka.brokers", "list such as 127.0.0.1:19092", readable)
}

fn is_url(url: &SecretUrl, schemes: &[&str]) -> bool {
    url::Url::parse(url.reveal()).is_ok_and(|url| url.has_host() && schemes.contains(&url.scheme()))
}

fn address(key: &'static str, expected: &'static str, readable: bool) -> Result<(), CheckError> {
    if readable {
        return Ok(());
    }
    Err(CheckError::Address { key, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_each_mistake_is_named() {
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
