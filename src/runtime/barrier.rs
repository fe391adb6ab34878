//! Caught up, as a fence and not as lag 0: a mark is written into the source's
//! log, and everything before it has to have come through: past the slot, into
//! the topics, and through each group.

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

/// The prefix of fanout's logical messages; the connector lets only these in.
const PREFIX: &str = "fanout";

/// The connector confirms a transaction when the one after it comes; at rest
/// that would be its next heartbeat, seconds later. So there is another mark
/// behind the fence, and again, after twice the time.
const FIRST_NUDGE: Duration = Duration::from_millis(50);
const LAST_NUDGE: Duration = Duration::from_secs(2);

/// Between two looks at the slot or at the commits.
const POLL: Duration = Duration::from_millis(50);

/// Where the log stood when everything before the fence was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// Position of the mark in Postgres' log.
    pub lsn: String,
    /// Per partition of the events' topic, one past its last record.
    pub events: Vec<i64>,
    /// The same of the content topic.
    pub content: Vec<i64>,
}

/// How far a group is on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Behind {
    pub partition: usize,
    pub committed: Option<i64>,
    pub end: i64,
    /// The offset was committed by something else than fanout, so it proves
    /// nothing.
    pub foreign: bool,
}

/// Why it is not caught up.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    #[error("cannot write the fence to postgres")]
    Postgres(#[from] PostgresError),
    #[error("kafka does not tell how far the log is")]
    Kafka(#[from] KafkaError),
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("replication slot {slot} does not exist")]
    NoSlot { slot: String },
    #[error("replication slot {slot} is {bytes} bytes behind after {}s{}", waited.as_secs(),
        if *.active { "" } else { ", and nobody reads it" })]
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
    let one = |behind: &Behind| {
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
    let texts: Vec<String> = partitions.iter().map(one).collect();
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
                    "fanout status: is `fanout run` up, and no sink halted?"
                }
                Self::Halted { halt, .. } => halt.remedy.as_str(),
            }
            .to_owned(),
        )
    }
}

/// Waits until all that Postgres had committed before this call is in the
/// topics and committed by the groups of `sinks`.
///
/// # Errors
/// When a server does not answer, or `timeout` passes first: then the error
/// names what is behind, and by how much.
pub async fn wait(
    connections: &Connections,
    sinks: &[SinkKind],
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<Fence, FenceError> {
    let steps = Steps::new(progress, "fence");
    let deadline = Instant::now() + timeout;
    let fence = into_log(connections, timeout, &steps).await?;
    let settings = connections.settings();
    let topic = events_topic(settings);
    for sink in sinks {
        let group = group(settings, sink.events_group());
        let log = connections.kafka.log(&group)?;
        loop {
            let commits = log.commits(&topic, fence.events.len()).await?;
            let life = log.identity(&topic).await?.map(TopicLife::from);
            let partitions = behind(&fence, life, &commits);
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
                let halted = halted(connections, sink.events_group()).await;
                return Err(halted.unwrap_or(behind));
            }
            sleep(POLL).await;
        }
    }
    steps.done("caught up");
    Ok(fence)
}

/// Why the sink of a group does not go on, where a pipeline of this machine says
/// that it is halted.
async fn halted(connections: &Connections, group: ConsumerGroup) -> Option<FenceError> {
    let status = worker_status::pipeline(&connections.pipeline).await.ok()?;
    let mut sinks = status.sinks.into_iter();
    let sink = sinks.find(|sink| sink.name == group.name())?;
    let (sink, halt) = (sink.name, sink.halt?);
    Some(FenceError::Halted { sink, halt })
}

/// The first half: waits until all that Postgres had committed is in the
/// topics, and tells their ends.
async fn into_log(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<Fence, FenceError> {
    let lsn = past_slot(connections, timeout, steps).await?;
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

/// Writes the mark and waits until the connector has confirmed it: it confirms
/// what Kafka has committed.
async fn past_slot(
    connections: &Connections,
    timeout: Duration,
    steps: &Steps<'_>,
) -> Result<String, FenceError> {
    let slot = &connections.settings().connector.slot;
    let client = connections.postgres.connect().await?;
    let mark = "SELECT pg_logical_emit_message(true, $1, $2)::text";
    let mark = client.prepare(mark).await?;
    let row = client.query_one(&mark, &[&PREFIX, &"fence"]).await?;
    let lsn: String = row.try_get(0)?;
    let started = Instant::now();
    let (mut nudge, mut nudged) = (FIRST_NUDGE, started);
    let look = "SELECT pg_wal_lsn_diff($2::text::pg_lsn, confirmed_flush_lsn)::bigint, active
                FROM pg_replication_slots WHERE slot_name = $1";
    let statement = client.prepare(look).await?;
    loop {
        let Some(row) = client.query_opt(&statement, &[slot, &lsn]).await? else {
            return Err(FenceError::NoSlot { slot: slot.clone() });
        };
        // Null until the connector has confirmed anything at all.
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
        if nudged.elapsed() >= nudge {
            client.query_one(&mark, &[&PREFIX, &"nudge"]).await?;
            nudged = Instant::now();
            nudge = (nudge * 2).min(LAST_NUDGE);
        }
    }
}

/// The partitions whose commit is short of their end, or is not fanout's. A
/// partition that never had a record needs no commit.
fn behind(
    fence: &Fence,
    life: Option<TopicLife>,
    commits: &[Option<(i64, String)>],
) -> Vec<Behind> {
    let is_foreign = |offset: i64, metadata: &str| {
        let named = TopicLife::read(metadata);
        !is_ours(offset, metadata) || named.is_some_and(|named| Some(named) != life)
    };
    let short = |(partition, end): (usize, &i64)| {
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
    fence.events.iter().enumerate().filter_map(short).collect()
}

/// Commits of the ClickHouse sink also say how far the content is that all
/// rows of the partition are enriched with; those of other sinks say nothing.
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

    /// A commit of the ClickHouse sink, enriched up to this content.
    fn commit(offset: i64, content: &str) -> (i64, String) {
        let metadata = format!(r#"{{"f":2,"g":1,"o":{offset},"c":[{content}]}}"#);
        (offset, metadata)
    }

    fn partitions(commits: &[Option<(i64, String)>]) -> Vec<usize> {
        let short = behind(&fence(), None, commits);
        short.iter().map(|behind| behind.partition).collect()
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
        let of_other = Some((9, other.text(9, None)));
        let commits = [None, Some((5, String::new())), moved, of_other];
        assert_eq!(partitions(&commits), [1, 2, 3]);
        let of_this = behind(&fence(), Some(other), &commits);
        assert_eq!(of_this.len(), 2, "{of_this:?}");
    }

    #[test]
    fn rows_that_are_still_to_be_re_enriched_are_named() {
        let commits = [("2", 5), ("3", 7), ("3", 9)].map(|(content, at)| Some(commit(at, content)));
        let commits = [&[None], &commits[..]].concat();
        assert_eq!(
            list(&behind(&fence(), None, &commits)),
            "partition 1 still re-enriches rows whose content has changed"
        );
    }

    #[test]
    fn the_error_says_who_is_behind_and_where() {
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
