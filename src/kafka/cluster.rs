//! A Kafka cluster, from which all of its clients are created. Each client's file contains its
//! constructor.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use crate::config::connection::{Auth, Connection, Tls};

/// Settings of the consumers of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerLimits {
    /// Size of the prefetched records per consumer, in KiB.
    pub prefetch_kbytes: u32,
    /// A member that is silent for this long loses its partitions.
    pub session_timeout_ms: u32,
}

/// A cluster and this process's consumer settings. Cheap to clone. Nothing is sent until one of
/// its clients makes a request.
#[derive(Debug, Clone)]
pub struct Kafka {
    connection: Arc<Connection>,
    pub(super) limits: ConsumerLimits,
}

impl Kafka {
    /// Returns the cluster that these brokers belong to.
    #[must_use]
    pub fn new(connection: Connection, limits: ConsumerLimits) -> Self {
        Self {
            connection: Arc::new(connection),
            limits,
        }
    }

    /// Returns the configured brokers: `host:port`, separated by commas.
    #[must_use]
    pub fn brokers(&self) -> &str {
        self.connection.url.reveal()
    }

    /// Returns the configuration that all kinds of client share.
    pub(super) fn client_config(&self) -> ClientConfig {
        client_config(&self.connection)
    }
}

/// Fetches the cluster's metadata to check that a broker is ready. Blocking.
///
/// # Errors
/// If no broker responds within `timeout`.
pub fn ping(connection: &Connection, timeout: Duration) -> Result<(), KafkaError> {
    let consumer: BaseConsumer = client_config(connection).set("log_level", "0").create()?;
    consumer.fetch_metadata(None, timeout)?;
    Ok(())
}

fn client_config(connection: &Connection) -> ClientConfig {
    let Connection {
        url,
        tls: Tls::ByScheme,
        auth: Auth::InUrl,
    } = connection;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", url.reveal());
    config
}
