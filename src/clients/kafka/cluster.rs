//! A Kafka cluster: what every client of it is made from. Each client's file says
//! how it is made.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use crate::clients::{Auth, Connection, Tls};

/// How the consumers of one process are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerLimits {
    /// Prefetched and not yet taken, per consumer.
    pub prefetch_kbytes: u32,
    /// A member silent for so long loses its partitions.
    pub session_timeout_ms: u32,
}

/// A cluster, and how this process reads from it. Cheap to clone. Nothing is
/// sent before one of the clients that it makes is asked something.
#[derive(Debug, Clone)]
pub struct Kafka {
    connection: Arc<Connection>,
    pub(super) limits: ConsumerLimits,
}

impl Kafka {
    /// The cluster that these brokers belong to.
    #[must_use]
    pub fn new(connection: Connection, limits: ConsumerLimits) -> Self {
        Self {
            connection: Arc::new(connection),
            limits,
        }
    }

    /// The brokers as they are configured: `host:port`, joined by commas.
    #[must_use]
    pub fn brokers(&self) -> &str {
        self.connection.url.reveal()
    }

    /// What the clients of every kind have in common.
    pub(super) fn client_config(&self) -> ClientConfig {
        client_config(&self.connection)
    }
}

/// Asks for the cluster's metadata: a broker that answers is ready. Blocking.
///
/// # Errors
/// When no broker answers within `timeout`.
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
