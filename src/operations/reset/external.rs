//! What is fanout's own in servers that are not: found by name, listed, and
//! removed. The source tables are the operator's and stay.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    config::Settings,
    connections::{Connections, clickhouse, postgres, redis},
    crash,
    failure::{Failure, Kind},
    kafka,
    progress::{Event, Progress},
    runtime::{lives_group, mended_group},
    sink_kind::ConsumerGroup,
    source::connector::{self, ConnectorError},
    stack::Site,
};

/// Tables in Postgres that fanout made for Debezium.
const HELPER_TABLES: [&str; 2] = ["debezium_signal", "debezium_heartbeat"];

/// What fanout has in ClickHouse, what depends on others first, and columns
/// that only fanout's own has: `content` may as well be somebody else's.
const CLICKHOUSE_OBJECTS: [(&str, &str, &[&str]); 4] = [
    (
        "VIEW",
        "engagement_enriched",
        &[
            "event_id",
            "engagement_seconds",
            "engagement_pct",
            "processed_at",
        ],
    ),
    (
        "TABLE",
        "engagement_enriched_storage",
        &[
            "event_id",
            "_version",
            "_deleted",
            "_partition",
            "_offset",
            "_content_offset",
        ],
    ),
    (
        "TABLE",
        "content",
        &[
            "id",
            "title",
            "length_seconds",
            "processed_at",
            "_version",
            "_deleted",
        ],
    ),
    (
        "TABLE",
        "fanout_topics",
        &["topic", "topic_id", "partitions", "generation"],
    ),
];

/// Topics that the connector writes to, below its prefix. Another connector
/// may share the prefix, so no other topic is ours.
const CONNECTOR_TOPICS: [&str; 5] = [
    "public.content",
    "public.engagement_events",
    "public.debezium_signal",
    "notifications",
    "message",
];

/// Whether anybody else's slot or publication may need Debezium's tables.
const SHARED: &str = "
    SELECT 1 FROM pg_replication_slots
    WHERE slot_type = 'logical' AND database = current_database() AND slot_name <> $1
    UNION ALL
    SELECT 1 FROM pg_publication_tables
    WHERE schemaname = 'public' AND tablename = ANY ($3::text[]) AND pubname <> $2
    LIMIT 1";

/// How long a slot may still be read from after its reader was told to stop.
const SLOT_TRIES: u32 = 40;
const SLOT_PAUSE: Duration = Duration::from_millis(250);

/// One thing of fanout's in a server that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// The server.
    pub service: Cow<'static, str>,
    /// `topic`, `slot`, `key` …
    pub kind: Cow<'static, str>,
    pub name: String,
}

/// Why something of fanout's is left in a server that is not.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("postgres, which is external, does not do it")]
    Postgres(#[from] postgres::PostgresError),
    #[error("kafka, which is external, does not do it")]
    Kafka(#[from] kafka::KafkaError),
    #[error("redis, which is external, does not do it")]
    Redis(#[from] redis::RedisError),
    #[error("clickhouse, which is external, does not do it")]
    ClickHouse(#[from] clickhouse::ClickHouseError),
    #[error(transparent)]
    Url(#[from] clickhouse::InvalidUrl),
    #[error("slot {name} is still being read from")]
    SlotBusy { name: String },
    #[error("a task of this program was lost")]
    Task(#[from] tokio::task::JoinError),
}

impl Failure for ExternalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Connector(error) => error.kind(),
            Self::Url(_) => Kind::Usage,
            Self::Task(_) => Kind::Failed,
            _ => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Connector(error) => error.code(),
            Self::SlotBusy { .. } => "slot_busy",
            _ => "external_not_removed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connector(error) => error.hint(),
            _ => Some("make sure that the server answers, then: fanout reset".to_owned()),
        }
    }
}

/// Asks each external server what of fanout's it holds.
pub(super) async fn owned(
    site: &Site,
    connections: &Connections,
    external: &[String],
) -> Result<Vec<Owned>, ExternalError> {
    let mut owned = Vec::new();
    for service in external {
        owned.extend(match service.as_str() {
            "connect" => in_connect(connections).await?,
            "postgres" => in_postgres(connections).await?,
            "kafka" => in_kafka(site, connections).await?,
            "redis" => in_redis(connections).await?,
            "clickhouse" => in_clickhouse(connections).await?,
            _ => Vec::new(),
        });
    }
    Ok(owned)
}

fn own(service: &'static str, kind: &'static str, name: impl Into<String>) -> Owned {
    Owned {
        service: service.into(),
        kind: kind.into(),
        name: name.into(),
    }
}

async fn in_connect(connections: &Connections) -> Result<Vec<Owned>, ExternalError> {
    let found = connector::status(connections).await?;
    Ok(found
        .into_iter()
        .map(|status| own("connect", "connector", status.name))
        .collect())
}

async fn in_postgres(connections: &Connections) -> Result<Vec<Owned>, ExternalError> {
    let settings = connections.settings();
    let client = connections.postgres.connect().await?;
    let mut owned = Vec::new();
    let queries = [
        (
            "slot",
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1",
            &settings.connector.slot,
        ),
        (
            "publication",
            "SELECT 1 FROM pg_publication WHERE pubname = $1",
            &settings.connector.publication,
        ),
    ];
    for (kind, query, name) in queries {
        if client.query_opt(query, &[name]).await?.is_some() {
            owned.push(own("postgres", kind, name));
        }
    }
    let (slot, publication) = (&settings.connector.slot, &settings.connector.publication);
    let helpers: Vec<&str> = HELPER_TABLES.to_vec();
    let shared = client
        .query_opt(SHARED, &[slot, publication, &helpers])
        .await?;
    // Another project, or another connector, needs them still.
    if shared.is_some() {
        return Ok(owned);
    }
    for table in HELPER_TABLES {
        let query = "SELECT 1 WHERE to_regclass('public.' || $1::text) IS NOT NULL";
        if client.query_opt(query, &[&table]).await?.is_some() {
            owned.push(own("postgres", "table", table));
        }
    }
    Ok(owned)
}

async fn in_kafka(site: &Site, connections: &Connections) -> Result<Vec<Owned>, ExternalError> {
    let (settings, kafka) = (connections.settings(), connections.kafka.clone());
    let listed = spawn_blocking(move || kafka.list_topics_and_groups()).await?;
    let (topics, groups) = listed?;
    let (own_topics, own_groups) = (topics_of(site, settings), groups_of(settings));
    let topics = topics
        .into_iter()
        .filter(|name| own_topics.contains(name))
        .map(|name| own("kafka", "topic", name));
    let groups = groups
        .into_iter()
        .filter(|name| own_groups.contains(name))
        .map(|name| own("kafka", "group", name));
    Ok(topics.chain(groups).collect())
}

/// The names of all topics that the project makes.
pub fn topics_of(site: &Site, settings: &Settings) -> BTreeSet<String> {
    let prefix = &settings.kafka.topic_prefix;
    let of_connector = CONNECTOR_TOPICS.map(|topic| format!("{prefix}.{topic}"));
    let mut topics = BTreeSet::from([
        format!("__debezium-heartbeat.{prefix}"),
        settings.kafka.dead_letter_topic.clone(),
        settings.kafka.state_topic.clone(),
    ]);
    topics.extend(of_connector);
    topics.extend(topics_of_connect(site));
    topics
}

/// Those of them that a Connect of fanout's own keeps its state in.
pub fn topics_of_connect(site: &Site) -> [String; 3] {
    ["configs", "offsets", "status"].map(|inner| format!("{}-connect-{inner}", site.project))
}

/// The groups that the pipeline commits for.
fn groups_of(settings: &Settings) -> BTreeSet<String> {
    let prefix = &settings.kafka.group_prefix;
    let mut groups = BTreeSet::new();
    for group in ConsumerGroup::ALL {
        groups.insert(group.id(prefix));
        groups.extend(notes_of(prefix, group));
    }
    groups
}

/// The groups that earlier releases kept their notes of this one in.
fn notes_of(prefix: &str, group: ConsumerGroup) -> Vec<String> {
    match group {
        ConsumerGroup::Board => vec![mended_group(prefix, group)],
        ConsumerGroup::Http => vec![mended_group(prefix, group), lives_group(prefix, group)],
        ConsumerGroup::Facts | ConsumerGroup::Content => Vec::new(),
    }
}

async fn in_redis(connections: &Connections) -> Result<Vec<Owned>, ExternalError> {
    let keys = crate::sinks::redis::BoardKeys::new(&connections.settings().board.key);
    let keys = [keys.board, keys.meta, keys.lease];
    let existing = connections.redis.existing(&keys).await?;
    let existing = existing.into_iter();
    Ok(existing.map(|key| own("redis", "key", key)).collect())
}

async fn in_clickhouse(connections: &Connections) -> Result<Vec<Owned>, ExternalError> {
    let settings = connections.settings();
    let database = &settings.clickhouse.database;
    let server = connections.clickhouse.server()?;
    let there = server.columns(database, patience(settings)).await?;
    let ours = CLICKHOUSE_OBJECTS.into_iter();
    Ok(ours
        .filter(|(_, name, columns)| {
            let found = there.get(*name);
            found.is_some_and(|found| columns.iter().all(|column| found.contains(*column)))
        })
        .map(|(kind, name, _)| own("clickhouse", kind, format!("{database}.{name}")))
        .collect())
}

fn patience(settings: &Settings) -> Duration {
    Duration::from_millis(settings.clickhouse.request_timeout_ms)
}

/// Removes the connector while Connect, and what it runs on, is still there.
pub(super) async fn remove_connector(
    connections: &Connections,
    owned: &[Owned],
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<(), ExternalError> {
    if owned.iter().any(|one| one.kind == "connector") {
        connector::erase(connections, timeout, progress).await?;
    }
    Ok(())
}

/// Removes the rest, once no process of fanout's uses it any more.
pub(super) async fn remove(
    connections: &Connections,
    owned: &[Owned],
    progress: &dyn Progress,
) -> Result<(), ExternalError> {
    let settings = connections.settings();
    let names = |kind: &str| -> Vec<String> {
        let of_kind = owned.iter().filter(|one| one.kind == kind);
        of_kind.map(|one| one.name.clone()).collect()
    };
    for one in owned.iter().filter(|one| one.kind != "connector") {
        let what = format!("removing {} {}", one.kind.to_lowercase(), one.name);
        progress.report(Event::Doing {
            task: &one.service,
            what: &what,
        });
        match one.service.as_ref() {
            "postgres" => drop_in_postgres(connections, one).await?,
            "clickhouse" => {
                let server = connections.clickhouse.server()?;
                let statement = format!("DROP {} IF EXISTS {}", one.kind, one.name);
                server.execute(&statement, patience(settings)).await?;
            }
            _ => {}
        }
        crash::point("reset", "object_removed");
    }
    let kafka = &connections.kafka;
    kafka.delete_groups(&names("group")).await?;
    kafka.delete_topics(&names("topic")).await?;
    let keys = names("key");
    if !keys.is_empty() {
        connections.redis.delete(&keys).await?;
    }
    Ok(())
}

async fn drop_in_postgres(connections: &Connections, one: &Owned) -> Result<(), ExternalError> {
    let client = connections.postgres.connect().await?;
    let name = one.name.replace('"', "\"\"");
    match one.kind.as_ref() {
        "publication" => {
            let statement = format!("DROP PUBLICATION IF EXISTS \"{name}\"");
            client.batch_execute(&statement).await?;
        }
        "table" => {
            let statement = format!("DROP TABLE IF EXISTS public.\"{name}\"");
            client.batch_execute(&statement).await?;
        }
        _ => return drop_slot(&client, &one.name).await,
    }
    Ok(())
}

async fn drop_slot(client: &postgres::Client, name: &str) -> Result<(), ExternalError> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = $1 AND NOT active";
    const LEFT: &str = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
    for _ in 0..SLOT_TRIES {
        client.query(DROP, &[&name]).await?;
        if client.query_opt(LEFT, &[&name]).await?.is_none() {
            return Ok(());
        }
        sleep(SLOT_PAUSE).await;
    }
    Err(ExternalError::SlotBusy {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Home, docker::discovery::Choice};

    #[test]
    fn only_what_the_project_makes_is_its_own() {
        let site = Site {
            project: "fanout".parse().expect("a name"),
            home: Home::at(std::path::Path::new("/nowhere")),
            cache: "/nowhere".into(),
            fanout: "/nowhere".into(),
            config_file: None,
            docker: Choice::default(),
        };
        let topics = topics_of(&site, &Settings::default());
        for ours in [
            "cdc.public.engagement_events",
            "cdc.notifications",
            "__debezium-heartbeat.cdc",
            "fanout.dlq",
            "fanout-connect-offsets",
        ] {
            assert!(topics.contains(ours), "{ours} is not in {topics:?}");
        }
        for others in ["cdc.public.orders", "cdc.billing.invoices", "cdc"] {
            assert!(!topics.contains(others), "{others} is somebody else's");
        }
        let groups: Vec<String> = groups_of(&Settings::default()).into_iter().collect();
        assert_eq!(
            groups,
            [
                "fanout-clickhouse",
                "fanout-content",
                "fanout-http",
                "fanout-http-lives",
                "fanout-http-mended",
                "fanout-redis",
                "fanout-redis-mended",
            ]
        );
    }

    #[test]
    fn what_up_makes_in_clickhouse_is_told_by_columns_that_it_has() {
        for (kind, name, columns) in CLICKHOUSE_OBJECTS {
            let begin = match kind {
                "VIEW" => format!("CREATE OR REPLACE VIEW {{{{database}}}}.{name} AS\n"),
                _ => format!("CREATE TABLE IF NOT EXISTS {{{{database}}}}.{name}\n"),
            };
            let mut files = crate::assets::under("sql/clickhouse/");
            let file = files.find(|file| file.text.contains(&begin));
            let text = file.unwrap_or_else(|| panic!("nothing makes {name}")).text;
            for column in columns {
                let is_column = |line: &str| {
                    let words = line.trim_end_matches(',').split_whitespace();
                    let mut words = words.map(|word| word.trim_end_matches(','));
                    line.starts_with("    ")
                        && (words.next() == Some(column) || words.next_back() == Some(column))
                };
                assert!(text.lines().any(is_column), "{name} has no {column}");
            }
        }
    }
}
