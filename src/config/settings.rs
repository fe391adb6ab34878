//! Every setting there is, with its unit in its name and its default here.
//!
//! How the layers are laid over each other is [`super::load`]'s business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    project::Project,
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
    /// Per service, by name, what differs from its definition.
    pub services: BTreeMap<String, Service>,
}

/// The source database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// How Kafka Connect reaches the same server, as `host:port`, where that
    /// differs from `url` (it does between containers).
    pub connect_address: Option<String>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, several joined by commas.
    pub brokers: String,
    /// First part of the topics' names: `<prefix>.public.content`.
    pub topic_prefix: String,
    /// First part of the consumer groups' names: `<prefix>-clickhouse`.
    pub group_prefix: String,
    /// Topic of dead letters.
    pub dead_letter_topic: String,
    /// Compacted topic of what every worker of the project has to know.
    pub state_topic: String,
    /// Replicas of each topic that fanout or the connector creates.
    pub replication_factor: u16,
    /// Prefetched and not yet taken, per partition that is read, in KiB.
    pub prefetch_kbytes: u32,
    /// A worker silent for so long loses its partitions.
    pub session_timeout_ms: u32,
}

/// Kafka Connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// REST endpoint.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// How often a failed task is restarted in an hour before it is left alone.
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
    /// Settings of Debezium's own, laid over fanout's.
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
    /// A batch is sent when it holds so many rows …
    pub batch_rows: usize,
    /// … or so many bytes of records …
    pub batch_bytes: usize,
    /// … or when its first record has waited so long.
    pub batch_ms: u64,
    /// Rows that one statement writes again, at most, after their content has
    /// changed.
    pub reenrich_rows: usize,
    pub request_timeout_ms: u64,
    /// Compress inserts: worth it across a network, not on one machine.
    pub compression: Compression,
}

/// How inserts are compressed.
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

/// The external system that is told of every insert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct External {
    /// Base of its URLs.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
    /// Where inserts are posted, below `url`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub events_path: SecretUrl,
    /// What answers when it is alive, below `url`.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub ping_path: SecretUrl,
    pub max_in_flight: usize,
    pub request_timeout_ms: u64,
    /// Also send rows that only a snapshot has shown.
    pub include_snapshots: bool,
    /// Rejections in a row, without a success, that halt the sink.
    pub max_rejects_in_a_row: u32,
    /// How often 409 and 425 are tried again.
    pub max_conflict_retries: u32,
    /// The longest `Retry-After` that is obeyed.
    pub max_retry_after_seconds: u64,
}

/// What all sinks share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    /// Which sinks `run` drives: any of `redis`, `clickhouse`, `http`.
    pub sinks: Sinks,
    /// First wait after a failure; it doubles with each further one.
    pub retry_base_ms: u64,
    /// The longest wait between two tries.
    pub retry_max_ms: u64,
    /// How long SIGTERM waits for what is in flight.
    pub shutdown_timeout_ms: u64,
}

/// The leaderboard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    /// Redis key of the sorted set.
    pub key: String,
    pub window_seconds: u64,
    /// An event further ahead of its record than this is not on the board.
    pub skew_seconds: u64,
    pub score: Score,
    /// A change is published within this.
    pub publish_interval_ms: u64,
    /// The whole board is written this often, whatever Redis says it holds.
    pub replace_interval_seconds: u64,
    /// A worker silent for so long loses the board.
    pub lease_ms: u64,
}

/// What a member's score counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Distinct events.
    Events,
    /// Seconds of engagement: `floor(Σ max(duration_ms, 0) / 1000)`.
    Seconds,
}

/// `run`'s own HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where `run` is found, and where it listens.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
}

/// Redpanda Console, which only runs in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// The page.
    #[serde(serialize_with = "SecretUrl::serialize_revealed")]
    pub url: SecretUrl,
}

/// What the servers that fanout starts may take of the disk and of memory,
/// besides the data that the source itself has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of one file of a service's log.
    pub log_file_mib: u64,
    /// Files of a service's log.
    pub log_files: u32,
    /// WAL that Postgres keeps for a replication slot that is not read. A slot
    /// that is further behind is lost.
    pub slot_wal_mib: u64,
    /// What Kafka keeps of one partition of a topic that is not compacted;
    /// older records are deleted.
    pub partition_mib: u64,
    /// Data in Redis. Writes fail beyond it.
    pub redis_mib: u64,
    /// Events that the stub keeps; it forgets the oldest.
    pub stub_events: u64,
    /// Size of the events that the stub keeps.
    pub stub_mib: u64,
}

/// What the operator wants different for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// `docker`, `native`, or `external` (never started, stopped or wiped).
    pub runtime: Option<Runtime>,
    /// Ports by their name in the service's definition.
    pub ports: BTreeMap<String, u16>,
    /// Image for the docker runtime: a mirror's, another version, or for
    /// `kafka` one of `apache/kafka`.
    pub image: Option<String>,
    /// Environment laid over the definition's.
    pub env: Variables,
}

/// How a service is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A container, through the Docker API.
    Docker,
    /// The real server as a process of this machine.
    Native,
    /// Somebody else's server: probed, and otherwise left alone.
    External,
}

impl Runtime {
    /// As it is written.
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
    /// Where inserts are posted.
    #[must_use]
    pub fn events(&self) -> SecretUrl {
        self.url.join(self.events_path.reveal())
    }
}

impl Settings {
    /// Removes the secrets of these settings from texts.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        // Settings always serialise: every key is a text.
        let document = serde_json::to_value(self).unwrap_or_default();
        // The names of the first two levels are fanout's own, and `board.key` is
        // no secret. The names below are the operator's.
        let sections = document
            .as_object()
            .into_iter()
            .flat_map(|all| all.values());
        for field in sections
            .filter_map(|it| it.as_object())
            .flat_map(|all| all.values())
        {
            redactor.add(field);
        }
        redactor
    }

    /// The defaults of a project: those of the default one, under its names.
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
