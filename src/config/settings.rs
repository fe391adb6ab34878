//! All settings, with their units in their names and their defaults.
//!
//! [`super::load`] applies the layers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::project::Project;
use crate::{
    secret::{Redactor, SecretUrl, Variables},
    sink_kind::Sinks,
};

/// The settings of one project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub connect: Connect,
    pub connector: Connector,
    pub clickhouse: ClickHouse,
    pub redis: Redis,
    pub external: External,
    pub pipeline: Pipeline,
    pub board: Board,
    pub http: Http,
    pub console: Console,
    pub limits: Limits,
    /// Overrides of services' definitions, by service name.
    pub services: BTreeMap<String, Service>,
}

/// The source database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// Address at which Kafka Connect reaches the same server, as `host:port`, if it differs
    /// from `url` (as between containers).
    pub connect_address: Option<String>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// Addresses as `host:port`, separated by commas.
    pub brokers: String,
    /// Prefix of the topics' names: `<prefix>.public.content`.
    pub topic_prefix: String,
    /// Prefix of the consumer groups' names: `<prefix>-clickhouse`.
    pub group_prefix: String,
    /// Topic of dead letters.
    pub dead_letter_topic: String,
    /// Compacted topic for the state that all workers of the project share.
    pub state_topic: String,
    /// Number of replicas of each topic that fanout or the connector creates.
    pub replication_factor: u16,
    /// Size of the prefetched records per partition that is read, in KiB.
    pub prefetch_kbytes: u32,
    /// A worker that is silent for this long loses its partitions.
    pub session_timeout_ms: u32,
}

/// Kafka Connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// REST endpoint.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// Maximum number of restarts of a failed task in an hour.
    pub task_restarts_per_hour: u32,
}

/// The Debezium connector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connector {
    pub name: String,
    /// Replication slot.
    pub slot: String,
    pub publication: String,
    /// Properties of Debezium that override those of fanout.
    pub properties: Variables,
}

/// The analytical store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClickHouse {
    /// `http://user:password@host:port`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    pub database: String,
    /// A batch is sent when it contains this many rows.
    pub batch_rows: usize,
    /// A batch is sent when its records have this many bytes.
    pub batch_bytes: usize,
    /// A batch is sent when its first record has waited for this long.
    pub batch_ms: u64,
    /// Maximum number of rows that one statement enriches again after their content changed.
    pub reenrich_rows: usize,
    pub request_timeout_ms: u64,
    /// Compression of inserts: useful across a network, but not on one machine.
    pub compression: Compression,
}

/// Compression of inserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Lz4,
}

/// The board's store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// `redis://[user:password@]host:port[/db]`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    pub request_timeout_ms: u64,
}

/// The external system that receives every insert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct External {
    /// Base URL.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// Path below `url` to which inserts are posted.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub events_path: SecretUrl,
    /// Path below `url` that responds if the system is running.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub ping_path: SecretUrl,
    pub max_in_flight: usize,
    pub request_timeout_ms: u64,
    /// Whether to also send rows that only a snapshot has read.
    pub include_snapshots: bool,
    /// Number of consecutive rejections that halts the sink.
    pub max_rejects_in_a_row: u32,
    /// How often a request is retried after status 409 or 425.
    pub max_conflict_retries: u32,
    /// Maximum `Retry-After` that is respected.
    pub max_retry_after_seconds: u64,
}

/// Settings that all sinks share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    /// The sinks that `run` drives: any of `redis`, `clickhouse`, `http`.
    pub sinks: Sinks,
    /// Delay after the first failure. It doubles with each further failure.
    pub retry_base_ms: u64,
    /// Maximum delay between two attempts.
    pub retry_max_ms: u64,
    /// How long the pipeline waits for work in flight after SIGTERM.
    pub shutdown_timeout_ms: u64,
}

/// The leaderboard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    /// Redis key of the sorted set.
    pub key: String,
    pub window_seconds: u64,
    /// An event that is further ahead of its record than this does not count.
    pub skew_seconds: u64,
    pub score: Score,
    /// Maximum delay until a change is published.
    pub publish_interval_ms: u64,
    /// Interval at which the whole board is rewritten, whatever Redis contains.
    pub replace_interval_seconds: u64,
    /// A worker that is silent for this long loses the board.
    pub lease_ms: u64,
}

/// The quantity that a member's score counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Distinct events.
    Events,
    /// Seconds of engagement: `floor(Σ max(duration_ms, 0) / 1000)`.
    Seconds,
}

/// The HTTP endpoint of `run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// URL at which `run` is reachable and listens.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
}

/// Redpanda Console, which only runs in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// URL of the web page.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
}

/// Limits on the disk space and memory that the servers started by fanout use, in addition to
/// the data of the source itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of one file of a service's log.
    pub log_file_mib: u64,
    /// Number of files of a service's log.
    pub log_files: u32,
    /// WAL that Postgres keeps for an inactive replication slot. A slot that falls further
    /// behind is lost.
    pub slot_wal_mib: u64,
    /// Data that Kafka keeps for one partition of a topic that is not compacted. Older records
    /// are deleted.
    pub partition_mib: u64,
    /// Data in Redis. Writes beyond this limit fail.
    pub redis_mib: u64,
    /// Number of events that the stub keeps. It discards the oldest.
    pub stub_events: u64,
    /// Size of the events that the stub keeps.
    pub stub_mib: u64,
}

/// The operator's overrides for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// `docker`, `native`, or `external` (never started, stopped or wiped).
    pub runtime: Option<Runtime>,
    /// Ports by their names in the service's definition.
    pub ports: BTreeMap<String, u16>,
    /// Image for the docker runtime: from a mirror, of another version, or for
    /// `kafka` one of `apache/kafka`.
    pub image: Option<String>,
    /// Environment variables that override the definition's.
    pub env: Variables,
}

/// The way in which a service is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A container, started through the Docker API.
    Docker,
    /// The real server as a process on this machine.
    Native,
    /// A server that fanout does not manage: it is only probed.
    External,
}

impl Runtime {
    /// Returns the name as written in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
            Self::External => "external",
        }
    }
}

impl External {
    /// Returns the URL to which inserts are posted.
    #[must_use]
    pub fn events(&self) -> SecretUrl {
        self.url.join(self.events_path.reveal())
    }
}

impl Settings {
    /// Returns a redactor that removes the secrets of these settings.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        // Settings always serialise, because every key is a text.
        let document = serde_json::to_value(self).unwrap_or_default();
        // The names of the first two levels are defined by fanout, and `board.key` is not a
        // secret. The names below are the operator's.
        let sections = document
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.values());
        for field in sections
            .filter_map(|section| section.as_object())
            .flat_map(|fields| fields.values())
        {
            redactor.add(field);
        }
        redactor
    }

    /// Returns the defaults of a project: the general defaults with the project's names.
    #[must_use]
    pub fn for_project(project: &Project) -> Self {
        let mut settings = Self::default();
        settings.kafka.topic_prefix = project.topic_prefix();
        project
            .as_str()
            .clone_into(&mut settings.kafka.group_prefix);
        settings.kafka.dead_letter_topic = project.dead_letter_topic();
        settings.kafka.state_topic = project.state_topic();
        settings.connector.name = project.connector();
        settings.connector.slot = project.slot();
        settings.connector.publication = project.publication();
        settings.clickhouse.database = project.clickhouse_database();
        settings.board.key = project.board_key();
        settings
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            url: "postgres://app:app@127.0.0.1:5432/app".into(),
            connect_address: None,
        }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:19092".to_owned(),
            topic_prefix: "cdc".to_owned(),
            group_prefix: "fanout".to_owned(),
            dead_letter_topic: "fanout.dlq".to_owned(),
            state_topic: "fanout.state".to_owned(),
            replication_factor: 1,
            prefetch_kbytes: 32 * 1024,
            session_timeout_ms: 6_000,
        }
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8083".into(),
            task_restarts_per_hour: 5,
        }
    }
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            name: "pg-engagement-cdc".to_owned(),
            slot: "dbz_slot".to_owned(),
            publication: "dbz_pub".to_owned(),
            properties: Variables::default(),
        }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self {
            url: "http://app:app@127.0.0.1:8123".into(),
            database: "analytics".to_owned(),
            batch_rows: 50_000,
            batch_bytes: 64 * 1024 * 1024,
            batch_ms: 500,
            reenrich_rows: 50_000,
            request_timeout_ms: 60_000,
            compression: Compression::None,
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            request_timeout_ms: 5_000,
        }
    }
}

impl Default for External {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8081".into(),
            events_path: "/events".into(),
            ping_path: "/ping".into(),
            max_in_flight: 64,
            request_timeout_ms: 10_000,
            include_snapshots: false,
            max_rejects_in_a_row: 20,
            max_conflict_retries: 5,
            max_retry_after_seconds: 60,
        }
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            sinks: Sinks::all(),
            retry_base_ms: 100,
            retry_max_ms: 10_000,
            shutdown_timeout_ms: 8_000,
        }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self {
            key: "top10m".to_owned(),
            window_seconds: 600,
            skew_seconds: 300,
            score: Score::Events,
            publish_interval_ms: 100,
            replace_interval_seconds: 30,
            lease_ms: 5_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_file_mib: 10,
            log_files: 5,
            slot_wal_mib: 8 * 1024,
            partition_mib: 4 * 1024,
            redis_mib: 512,
            stub_events: 1_000_000,
            stub_mib: 1024,
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8080".into(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:9464".into(),
        }
    }
}
