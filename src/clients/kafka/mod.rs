//! Kafka, by rdkafka: members of consumer groups, plain readers of the log,
//! the producer of dead letters, topics.
//!
//! Everything reads committed records only, and every end of a partition is
//! its last stable offset, read fresh.

mod log;
mod member;
mod native;
mod partition;
mod producer;
mod reader;
mod reconnect;
mod scan;
mod state;
mod topics;

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
};

pub use log::{Bounds, Log};
pub use member::{Claim, Done, Membership, Rebalance};
pub use native::TopicIdentity;
pub use partition::{
    Committer, Limits, Partition, Taken, is_fenced, is_out_of_range, is_unanswered,
};
pub use producer::{Letter, Producer};
pub use rdkafka::error::KafkaError;
pub use reader::Reader;
pub use scan::{Scan, Seen, Stretch};
pub use state::StateTopic;
pub use topics::{
    TopicConfig, TopicSpec, delete_before, delete_groups, delete_topics, ensure_topics,
    list_topics_and_groups, set_topic_config, topic_configs,
};

/// How the consumers of one process are set.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// `host:port`, several joined by commas.
    pub brokers: String,
    /// Prefetched and not yet taken, per partition, in KiB: librdkafka counts so where
    /// partitions have queues of their own.
    pub prefetch_kbytes: u32,
    /// A member silent for so long loses its partitions.
    pub session_timeout_ms: u32,
}

/// A consumer's configuration: nothing is committed by itself, no offset is
/// ever guessed, and only committed records are seen.
fn consumer_config(settings: &ConsumerSettings, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "fanout")
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set(
            "session.timeout.ms",
            settings.session_timeout_ms.to_string(),
        )
        .set(
            "heartbeat.interval.ms",
            (settings.session_timeout_ms / 3).to_string(),
        )
        .set(
            "queued.max.messages.kbytes",
            settings.prefetch_kbytes.to_string(),
        )
        .set("queued.min.messages", "100000")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", (4 * 1024 * 1024).to_string())
        .set("receive.message.max.bytes", (128 * 1024 * 1024).to_string())
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("log_level", "3");
    config
}

/// The same for one that is polled all the time: it reports its brokers.
fn polled_consumer_config(settings: &ConsumerSettings, group: &str) -> ClientConfig {
    let mut config = consumer_config(settings, group);
    let interval = reconnect::REPORT_INTERVAL.as_millis();
    config.set("statistics.interval.ms", interval.to_string());
    config
}

/// Whether the broker, or the way to it, is at fault, so that trying again may
/// help.
#[must_use]
pub fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error.rdkafka_error_code().is_none_or(|code| {
        !matches!(
            code,
            Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::MessageSizeTooLarge
                | Code::Fatal
                | Code::InvalidConfig
        )
    })
}

/// Whether the broker refuses who we are, or what we ask to do.
#[must_use]
pub fn is_denied(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Authentication
        )
    })
}

/// Asks for the cluster's metadata: a broker that answers is ready. Blocking.
///
/// # Errors
/// When no broker answers within `timeout`.
pub fn ping(brokers: &str, timeout: Duration) -> Result<(), KafkaError> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("log_level", "0")
        .create()?;
    consumer.fetch_metadata(None, timeout)?;
    Ok(())
}
