//! Kafka, through rdkafka: members of consumer groups, plain readers of the log, the producer
//! of dead letters, and topics.
//!
//! All clients read only committed records. The end of a partition is always its last stable
//! offset, read from the broker for each query.

pub mod chunk;
mod cluster;
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

use rdkafka::{ClientConfig, error::RDKafkaErrorCode};

pub use cluster::{ConsumerLimits, Kafka, ping};
pub use log::{Bounds, Log};
pub use member::{Assignment, Done, Membership, Rebalance};
pub use native::TopicIdentity;
pub use partition::{
    Committer, Limits, Partition, Taken, is_fenced, is_out_of_range, is_unanswered,
};
pub use producer::{Letter, Producer};
pub use rdkafka::error::KafkaError;
pub use reader::Reader;
pub use scan::{Scan, Seen, Stretch};
pub use state::StateTopic;
pub use topics::{TopicConfig, TopicSpec};

/// Returns the value of a partition from a list that is indexed by partition number.
pub fn of_partition<T>(values: &[T], partition: i32) -> Option<&T> {
    values.get(usize::try_from(partition).ok()?)
}

/// Returns a consumer's configuration: no automatic commits, no automatic offset reset, and
/// only committed records.
fn consumer_config(kafka: &Kafka, group: &str) -> ClientConfig {
    let limits = kafka.limits;
    let mut config = kafka.client_config();
    config
        .set("client.id", "fanout")
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", limits.session_timeout_ms.to_string())
        .set(
            "heartbeat.interval.ms",
            (limits.session_timeout_ms / 3).to_string(),
        )
        .set(
            "queued.max.messages.kbytes",
            limits.prefetch_kbytes.to_string(),
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

/// Returns the configuration of a consumer that is polled continuously. It also reports its
/// brokers.
fn polled_consumer_config(kafka: &Kafka, group: &str) -> ClientConfig {
    let mut config = consumer_config(kafka, group);
    let interval = reconnect::REPORT_INTERVAL.as_millis();
    config.set("statistics.interval.ms", interval.to_string());
    config
}

/// Returns true if the broker or the connection to it is at fault, so that retrying may help.
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

/// Returns true if the broker denies the credentials or the operation.
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
