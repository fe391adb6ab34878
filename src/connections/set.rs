//! The one set of clients of a project, made from its settings in one place and
//! passed down.

use std::sync::Arc;

use super::{clickhouse::ClickHouse, postgres::Postgres, redis::Redis, web::WebServer};
use crate::{
    config::{Settings, connection::Connection},
    kafka::{ConsumerLimits, Kafka},
    secret::SecretUrl,
};

/// A client for each server that the settings name, with these settings. Cheap
/// to clone. Nothing connects before a client is asked something.
#[derive(Debug, Clone)]
pub struct Connections {
    settings: Arc<Settings>,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub redis: Redis,
    pub clickhouse: ClickHouse,
    /// Kafka Connect's REST.
    pub connect: WebServer,
    /// Where inserts are posted.
    pub external: WebServer,
    /// The HTTP that `run` serves.
    pub pipeline: WebServer,
}

impl Connections {
    /// Makes them. An address that cannot be used is found when it is first
    /// needed.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            postgres: Postgres::new(Connection::new(settings.postgres.url.clone())),
            kafka: kafka(settings),
            redis: Redis::new(Connection::new(settings.redis.url.clone())),
            clickhouse: clickhouse(settings),
            connect: web(settings.connect.url.clone()),
            external: web(settings.external.events()),
            pipeline: web(settings.http.url.clone()),
            settings: Arc::new(settings.clone()),
        }
    }

    /// What they were made from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

fn clickhouse(settings: &Settings) -> ClickHouse {
    let settings = &settings.clickhouse;
    ClickHouse::new(Connection::new(settings.url.clone()), &settings.database)
}

fn kafka(settings: &Settings) -> Kafka {
    let settings = &settings.kafka;
    let limits = ConsumerLimits {
        prefetch_kbytes: settings.prefetch_kbytes,
        session_timeout_ms: settings.session_timeout_ms,
    };
    Kafka::new(Connection::new(settings.brokers.as_str().into()), limits)
}

fn web(url: SecretUrl) -> WebServer {
    WebServer::new(Connection::new(url))
}

#[cfg(test)]
impl Default for Connections {
    /// Under the default settings, for tests that send nothing.
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}
