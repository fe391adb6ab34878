//! The catch-up barrier, called fence in the code. A marker is written to the log of
//! Postgres. The sinks have caught up once everything before the marker has passed the
//! replication slot, the topics and each consumer group. Lag 0 alone is not enough,
//! because Debezium may be behind Postgres.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{TopicLife, is_ours, status::Halt, worker_status};
use crate::{
    connections::{Connections, postgres::PostgresError},
    failure::{Failure, Kind},
    kafka::{KafkaError, Log},
    progress::{Progress, steps::Steps},
    sink_kind::{ConsumerGroup, SinkKind},
    source::tables::{content_topic, events_topic, group, reader_group},
};

/// Prefix of fanout's logical messages. The connector ignores all others.
const PREFIX: &str = "fanout";

/// The connector confirms a transaction only when the next one arrives. On an idle
/// source that is the next heartbeat, seconds later. Further markers are therefore
/// written after the first one, at intervals that double up to `LAST_NUDGE`.
const FIRST_NUDGE: Duration = Duration::from_millis(50);
const LAST_NUDGE: Duration = Duration::from_secs(2);

/// Interval at which the slot and the commits are polled.
const POLL: Duration = Duration::from_millis(50);

/// Ends of the topics at the time when they contained everything before the marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// Position of the marker in the log of Postgres.
    pub lsn: String,
    /// End offset of each partition of the events topic.
    pub events: Vec<i64>,
    /// End offset of each partition of the content topic.
    pub content: Vec<i64>,
}

/// Progress of a group that is behind on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Behind {
    pub partition: usize,
    pub committed: Option<i64>,
    pub end: i64,
    /// Whether another tool committed the offset, so that it proves nothing.
    pub foreign: bool,
}

/// Error while waiting for the sinks to catch up.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    #[error("cannot write the barrier to postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot read the offsets from kafka")]
    Kafka(#[from] KafkaError),
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("replication slot {slot} does not exist")]
    NoSlot { slot: String },
    #[error("replication slot {slot} is {bytes} bytes behind after {}s{}", waited.as_secs(),
        if *.active { "" } else { ", and inactive" })]
    SlotBehind {
        slot: String,
        bytes: i64,
        active: bool,
        waited: Duration,
    },
    #[error("group {group} is behind after {}s: {}", waited.as_secs(), list(partitions))]
    GroupBehind {
        group: String,
        partitions: Vec<Behind>,
        waited: Duration,
    },
    #[error("sink {sink} halted: {}", halt.reason)]
    Halted { sink: String, halt: Halt },
}

fn list(partitions: &[Behind]) -> String {
    let describe = |behind: &Behind| {
        let committed = match behind.committed {
            Some(offset) if behind.foreign => {
                return format!(
                    "partition {} is at {offset}, which fanout did not commit",
                    behind.partition
                );
            }
            Some(offset) if offset >= behind.end => {
                return format!(
                    "partition {} still re-enriches rows whose content has changed",
                    behind.partition
                );
            }
            Some(offset) => offset.to_string(),
            None => "nothing".to_owned(),
        };
        format!(
            "partition {} has {committed} of {} committed",
            behind.partition, behind.end
        )
    };
    let texts: Vec<String> = partitions.iter().map(describe).collect();
    texts.join(", ")
}

impl Failure for FenceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Postgres(_) | Self::Kafka(_) => Kind::Environment,
            Self::NoTopic { .. } | Self::NoSlot { .. } | Self::Halted { .. } => Kind::Failed,
            Self::SlotBehind { .. } | Self::GroupBehind { .. } => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Kafka(_) => "kafka",
            Self::NoTopic { .. } => "no_topic",
            Self::NoSlot { .. } => "no_slot",
            Self::SlotBehind { .. } => "slot_behind",
            Self::GroupBehind { .. } => "group_behind",
            Self::Halted { .. } => "sink_halted",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Postgres(_) | Self::Kafka(_) => "fanout status",
                Self::NoTopic { .. } | Self::NoSlot { .. } => "fanout connector apply",
                Self::SlotBehind { .. } => "fanout connector status",
                Self::GroupBehind { .. } => {
                    "fanout status; check that `fanout run` is running and no sink is halted"
                }
                Self::Halted { halt, .. } => halt.remedy.as_str(),
            }
            .to_owned(),
        )
    }
}

/// Waits until every change that was committed in Postgres before this call is in the
/// topics and committed by the groups of `sinks`.
///
/// # Errors
/// If a server does not respond, or `timeout` expires first. The error then contains
/// the part that is behind, and by how much.
pub async fn wait(
    connections: &Connections,
    sinks: &[SinkKind],
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Fence, FenceError> {
    let steps = Steps::new(progress, "fence");
    let deadline = Instant::now() + timeout;
    let fence = wait_for_topics(connections, timeout, &steps).await?;
    let settings = connections.settings();
    let topic = events_topic(settings);
    for sink in sinks {
        let group = group(settings, sink.events_group());
        let log = connections.kafka.log(&group)?;
        loop {
            let commits = log.commits(&topic, fence.events.len()).await?;
            let incarnation = log.identity(&topic).await?.map(TopicLife::from);
            let partitions = behind(&fence, incarnation, &commits);
            if partitions.is_empty() {
                break;
            }
            steps.doing(&format!("waiting for group {group}"));
            if Instant::now() >= deadline {
                let behind = FenceError::GroupBehind {
                    group,
                    partitions,
                    waited: timeout,
                };
                let halted = halted_error(connections, sink.events_group()).await;
                return Err(halted.unwrap_or(behind));
            }
            sleep(POLL).await;
        }
    }
    steps.done("caught up");
    Ok(fence)
}

/// Returns an error if the pipeline on this machine reports that the group's sink is
/// halted.
async fn halted_error(connections: &Connections, group: ConsumerGroup) -> Option<FenceError> {
    let status = worker_status::pipeline(&connections.pipeline).await.ok()?;
    let mut sinks = status.sinks.into_iter();
    let sink = sinks.find(|sink| sink.name == group.name())?;
    let (sink, halt) = (sink.name, sink.halt?);
    Some(FenceError::Halted { sink, halt })
}

/// Waits until every change that was committed in Postgres is in the topics. Returns
/// the ends of the topics.
async fn wait_for_topics(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<Fence, FenceError> {
    let lsn = wait_for_slot(connections, timeout, steps).await?;
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "fence"))?;
    let events = ends(&log, events_topic(settings)).await?;
    let content = ends(&log, content_topic(settings)).await?;
    Ok(Fence {
        lsn,
        events,
        content,
    })
}

async fn ends(log: &Log, topic: String) -> Result<Vec<i64>, FenceError> {
    match log.partitions(&topic).await? {
        Some(_) => Ok(log.ends(&topic).await?),
        None => Err(FenceError::NoTopic { topic }),
    }
}

/// Writes the marker and waits until the connector has confirmed it. The connector
/// only confirms changes that Kafka has acknowledged.
async fn wait_for_slot(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<String, FenceError> {
    let slot = &connections.settings().connector.slot;
    let client = connections.postgres.connect().await?;
    let emit = "SELECT pg_logical_emit_message(true, $1, $2)::text";
    let emit = client.prepare(emit).await?;
    let row = client.query_one(&emit, &[&PREFIX, &"fence"]).await?;
    let lsn: String = row.try_get(0)?;
    let started = Instant::now();
    let (mut nudge_interval, mut last_nudge) = (FIRST_NUDGE, started);
    let query = "SELECT pg_wal_lsn_diff($2::text::pg_lsn, confirmed_flush_lsn)::bigint, active
                 FROM pg_replication_slots WHERE slot_name = $1";
    let statement = client.prepare(query).await?;
    loop {
        let Some(row) = client.query_opt(&statement, &[slot, &lsn]).await? else {
            return Err(FenceError::NoSlot { slot: slot.clone() });
        };
        // Null until the first confirmation of the connector.
        let bytes: i64 = row.try_get::<_, Option<i64>>(0)?.unwrap_or(i64::MAX);
        if bytes <= 0 {
            return Ok(lsn);
        }
        steps.doing("waiting for the connector");
        if started.elapsed() >= timeout {
            return Err(FenceError::SlotBehind {
                slot: slot.clone(),
                bytes,
                active: row.try_get(1)?,
                waited: timeout,
            });
        }
        sleep(POLL).await;
        if last_nudge.elapsed() >= nudge_interval {
            client.query_one(&emit, &[&PREFIX, &"nudge"]).await?;
            last_nudge = Instant::now();
            nudge_interval = (nudge_interval * 2).min(LAST_NUDGE);
        }
    }
}

/// Returns the partitions whose committed offset is before their end or was not
/// committed by fanout. A partition that never had a record needs no commit.
fn behind(
    fence: &Fence,
    incarnation: Option<TopicLife>,
    commits: &[Option<(i64, String)>],
) -> Vec<Behind> {
    let is_foreign = |offset: i64, metadata: &str| {
        let committed_in = TopicLife::read(metadata);
        !is_ours(offset, metadata) || committed_in.is_some_and(|other| Some(other) != incarnation)
    };
    let behind = |(partition, end): (usize, &i64)| {
        let commit = commits.get(partition).and_then(Option::as_ref);
        let committed = commit.map(|(offset, _)| *offset);
        let enriched = commit.is_none_or(|(_, metadata)| is_enriched(metadata, &fence.content));
        let foreign = commit.is_some_and(|(offset, metadata)| is_foreign(*offset, metadata));
        (committed.unwrap_or(0) < *end || !enriched || foreign).then_some(Behind {
            partition,
            committed,
            end: *end,
            foreign,
        })
    };
    fence.events.iter().enumerate().filter_map(behind).collect()
}

/// Enrichment progress in the commit metadata of the ClickHouse sink: the content
/// position with which all rows of the partition are enriched. Commits of other sinks
/// do not have it.
#[derive(Debug, Deserialize)]
struct Enriched {
    /// Next offset of each content partition.
    c: Vec<i64>,
}

fn is_enriched(metadata: &str, content: &[i64]) -> bool {
    let Ok(enriched) = serde_json::from_str::<Enriched>(metadata) else {
        return true;
    };
    let reached = |partition: usize| enriched.c.get(partition).copied().unwrap_or(0);
    let mut ends = content.iter().enumerate();
    ends.all(|(partition, end)| reached(partition) >= *end)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::kafka::TopicIdentity;

    fn fence() -> Fence {
        Fence {
            lsn: "0/1".to_owned(),
            events: vec![0, 5, 7, 9],
            content: vec![3],
        }
    }

    /// Returns a commit of the ClickHouse sink, enriched up to the given content.
    fn commit(offset: i64, content: &str) -> (i64, String) {
        let metadata = format!(r#"{{"f":2,"g":1,"o":{offset},"c":[{content}]}}"#);
        (offset, metadata)
    }

    fn partitions(commits: &[Option<(i64, String)>]) -> Vec<usize> {
        let behind = behind(&fence(), None, commits);
        behind.iter().map(|behind| behind.partition).collect()
    }

    #[test]
    fn an_empty_partition_needs_no_commit() {
        let commits = [None, Some(commit(5, "3")), Some(commit(6, "3")), None];
        assert_eq!(partitions(&commits), [2, 3]);
    }

    #[test]
    fn rows_not_enriched_with_the_latest_content_are_behind() {
        let commits = [
            None,
            Some(commit(5, "3")),
            Some(commit(7, "2")),
            Some(commit(9, "")),
        ];
        assert_eq!(partitions(&commits), [2, 3]);
    }

    #[test]
    fn an_offset_that_fanout_did_not_commit_proves_nothing() {
        let moved = Some((7, commit(5, "3").1));
        let other = TopicLife::from(TopicIdentity {
            id: Uuid::from_u128(7),
            partitions: 4,
        });
        let other_commit = Some((9, other.text(9, None)));
        let commits = [None, Some((5, String::new())), moved, other_commit];
        assert_eq!(partitions(&commits), [1, 2, 3]);
        let behind = behind(&fence(), Some(other), &commits);
        assert_eq!(behind.len(), 2, "{behind:?}");
    }

    #[test]
    fn pending_re_enrichment_is_reported() {
        let commits =
            [("2", 5), ("3", 7), ("3", 9)].map(|(content, offset)| Some(commit(offset, content)));
        let commits = [&[None], &commits[..]].concat();
        assert_eq!(
            list(&behind(&fence(), None, &commits)),
            "partition 1 still re-enriches rows whose content has changed"
        );
    }

    #[test]
    fn the_error_has_the_group_and_its_partitions() {
        let commits = [None, Some((5, String::new())), Some(commit(6, "3")), None];
        let error = FenceError::GroupBehind {
            group: "fanout-redis".to_owned(),
            partitions: behind(&fence(), None, &commits),
            waited: Duration::from_secs(3),
        };
        assert_eq!(
            error.to_string(),
            "group fanout-redis is behind after 3s: partition 1 is at 5, which fanout did not \
             commit, partition 2 has 6 of 7 committed, partition 3 has nothing of 9 committed"
        );
    }
}
