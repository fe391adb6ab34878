//! Errors of a backfill.

use std::{io, path::PathBuf, time::Duration};

use crate::{
    connections::{
        clickhouse::{ClickHouseError, InvalidUrl},
        postgres::PostgresError,
    },
    failure::{Failure, Kind},
    kafka::KafkaError,
    runtime::{barrier::FenceError, replay::ReplayError},
    sink_kind::{SinkKind, joined},
    sinks::{clickhouse::owned::ObjectsError, redis::renew::BoardError},
    source::{InspectError, RecordsError, Refusal, connector::ConnectorError},
    stack::StateError,
};

/// Error that prevents or stops a backfill. The backfill can be run again.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    #[error("{0}")]
    Usage(String),
    #[error("another backfill of project {project} is running: {holder}")]
    Busy { project: String, holder: String },
    #[error("cannot read or write {}", path.display())]
    Journal {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not the journal of a backfill: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("cannot use temporary files")]
    Disk(#[from] io::Error),
    #[error("cannot access kafka")]
    Kafka(#[from] KafkaError),
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("the log no longer reaches back to {from}: {}", list(partitions))]
    OlderThanLog {
        from: String,
        to: Option<String>,
        sinks: Vec<SinkKind>,
        /// Partitions and their start offsets.
        partitions: Vec<(i32, i64)>,
    },
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error("cannot access postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot access clickhouse")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    ClickHouseUrl(#[from] InvalidUrl),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("the source must be repaired first: {0}")]
    Source(Refusal),
    #[error("confirmation required: {service} is external and needs: {what}")]
    NotConfirmed { service: &'static str, what: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("not caught up")]
    Fence(#[from] FenceError),
    #[error("the connector has not reported snapshot progress for {}s", waited.as_secs())]
    SnapshotSilent { waited: Duration },
    #[error("the snapshot was aborted")]
    SnapshotAborted,
    #[error("the snapshot of {table} ended with {status}")]
    SnapshotFailed { table: String, status: String },
}

fn list(partitions: &[(i32, i64)]) -> String {
    let describe = |(partition, start): &(i32, i64)| {
        format!("partition {partition} starts at offset {start}, which is later")
    };
    let texts: Vec<String> = partitions.iter().map(describe).collect();
    texts.join(", ")
}

impl Failure for BackfillError {
    fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) => Kind::Usage,
            Self::Busy { .. } | Self::Source(_) | Self::NotConfirmed { .. } => Kind::Refused,
            Self::State(error) => error.kind(),
            Self::Inspect(_) => Kind::Environment,
            Self::Records(error) => error.kind(),
            Self::Journal { .. } | Self::Malformed { .. } | Self::Disk(_) | Self::Kafka(_) => {
                Kind::Environment
            }
            Self::Board(error) => error.kind(),
            Self::NoTopic { .. } | Self::OlderThanLog { .. } => Kind::Failed,
            Self::Postgres(_) | Self::ClickHouse(_) => Kind::Environment,
            Self::ClickHouseUrl(_) => Kind::Usage,
            Self::Replay(error) => error.kind(),
            Self::Objects(error) => error.kind(),
            Self::Connector(error) => error.kind(),
            Self::Fence(error) => error.kind(),
            Self::SnapshotAborted | Self::SnapshotFailed { .. } => Kind::Failed,
            Self::SnapshotSilent { .. } => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Busy { .. } => "backfill_locked",
            Self::Journal { .. } => "state_unreachable",
            Self::Malformed { .. } => "state_malformed",
            Self::Disk(_) => "temporary_files",
            Self::Kafka(_) => "kafka",
            Self::NoTopic { .. } => "no_topic",
            Self::OlderThanLog { .. } => "older_than_log",
            Self::Replay(error) => error.code(),
            Self::Board(error) => error.code(),
            Self::Postgres(_) => "postgres",
            Self::ClickHouse(_) => "clickhouse",
            Self::ClickHouseUrl(_) => "clickhouse_url",
            Self::Objects(error) => error.code(),
            Self::Connector(error) => error.code(),
            Self::Fence(error) => error.code(),
            Self::Source(_) => "source_broken",
            Self::NotConfirmed { .. } => "not_confirmed",
            Self::State(error) => error.code(),
            Self::Inspect(_) => "source",
            Self::Records(error) => error.code(),
            Self::SnapshotSilent { .. } => "snapshot_silent",
            Self::SnapshotAborted => "snapshot_aborted",
            Self::SnapshotFailed { .. } => "snapshot_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Usage(_) => "fanout backfill --help".to_owned(),
            Self::Busy { .. } => "wait until it is done, then rerun the command".to_owned(),
            Self::Disk(_) => "free space in that folder, then rerun the command".to_owned(),
            Self::Journal { .. } => {
                "use a folder that you can write to: FANOUT_HOME=<folder> fanout …".to_owned()
            }
            Self::Malformed { path, .. } => format!("rm {}", path.display()),
            Self::Kafka(_) | Self::Postgres(_) | Self::ClickHouse(_) => "fanout status".to_owned(),
            Self::Board(error) => return error.hint(),
            Self::ClickHouseUrl(_) => "fanout config show".to_owned(),
            Self::Objects(error) => return error.hint(),
            Self::Connector(error) => return error.hint(),
            Self::Fence(error) => return error.hint(),
            Self::SnapshotSilent { .. } | Self::SnapshotAborted | Self::SnapshotFailed { .. } => {
                "fanout connector status; then rerun the command".to_owned()
            }
            Self::NoTopic { .. } => "fanout connector apply".to_owned(),
            Self::OlderThanLog {
                from, to, sinks, ..
            } => {
                let to = to.as_ref().map(|to| format!(" --to {to}"));
                let to = to.unwrap_or_default();
                let sinks = joined(sinks, ",");
                format!("fanout backfill --from {from}{to} --source database --sinks {sinks}")
            }
            Self::Replay(error) => return error.hint(),
            Self::Source(refusal) => {
                let first = refusal.findings.first();
                return first.map(|finding| finding.remedy.clone());
            }
            Self::NotConfirmed { .. } => "fanout backfill --yes".to_owned(),
            Self::State(error) => return error.hint(),
            Self::Inspect(_) => "fanout status".to_owned(),
            Self::Records(error) => return error.hint(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_for_a_missing_range_reads_the_source_into_the_same_sinks() {
        let older = |to: Option<&str>| BackfillError::OlderThanLog {
            from: "2h".to_owned(),
            to: to.map(str::to_owned),
            sinks: vec![SinkKind::ClickHouse, SinkKind::Http],
            partitions: vec![(0, 7)],
        };
        assert_eq!(
            older(None).hint().as_deref(),
            Some("fanout backfill --from 2h --source database --sinks clickhouse,http")
        );
        assert_eq!(
            older(Some("1h")).hint().as_deref(),
            Some("fanout backfill --from 2h --to 1h --source database --sinks clickhouse,http")
        );
    }
}
