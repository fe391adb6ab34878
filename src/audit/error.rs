//! What can keep a verification from being made. A difference is no error.

use crate::{
    connections::{
        clickhouse::{ClickHouseError, InvalidUrl},
        postgres::PostgresError,
        redis::RedisError,
        web::WebError,
    },
    failure::{Failure, Kind},
    kafka::KafkaError,
    runtime::{Fault, PlaceholderError, barrier::FenceError},
    source::Refusal,
};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("not caught up")]
    Fence(#[from] FenceError),
    #[error("nothing can be compared")]
    Source(#[source] Refusal),
    #[error("postgres does not answer")]
    Postgres(#[from] PostgresError),
    #[error("clickhouse does not answer")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    ClickHouseUrl(#[from] InvalidUrl),
    #[error("cannot read the board from redis")]
    Redis(#[from] RedisError),
    #[error("kafka does not answer")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Placeholders(#[from] PlaceholderError),
    #[error("the external system does not answer")]
    Web(#[from] WebError),
    #[error("the stub's list of events cannot be read")]
    StubDocument,
    #[error("cannot use temporary files")]
    Disk(#[from] std::io::Error),
    #[error("the state topic cannot be read: {reason}")]
    State { reason: String },
    #[error("the board cannot be judged: {reason}")]
    BoardNotReady { reason: &'static str },
}

impl VerifyError {
    /// Why the state topic does not say what is asked for.
    pub(crate) fn state(fault: Fault) -> Self {
        Self::State {
            reason: match fault {
                Fault::Retry { reason, .. } => reason,
                Fault::Halt(halt) => halt.reason,
            },
        }
    }
}

impl Failure for VerifyError {
    fn kind(&self) -> Kind {
        match self {
            Self::Fence(error) => error.kind(),
            Self::Placeholders(error) => error.kind(),
            Self::Source(refusal) => refusal.kind(),
            Self::ClickHouseUrl(_) => Kind::Usage,
            Self::Postgres(_)
            | Self::ClickHouse(_)
            | Self::Redis(_)
            | Self::Kafka(_)
            | Self::Disk(_)
            | Self::Web(_) => Kind::Environment,
            Self::State { .. } | Self::StubDocument => Kind::Failed,
            Self::BoardNotReady { .. } => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Fence(error) => error.code(),
            Self::Placeholders(error) => error.code(),
            Self::Source(refusal) => refusal.code(),
            Self::Postgres(_) => "postgres",
            Self::ClickHouse(_) => "clickhouse",
            Self::ClickHouseUrl(_) => "clickhouse_url",
            Self::Redis(_) => "redis",
            Self::Kafka(_) => "kafka",
            Self::Web(_) => "external",
            Self::Disk(_) => "temporary_files",
            Self::State { .. } => "state_topic",
            Self::StubDocument => "stub_document",
            Self::BoardNotReady { .. } => "board_not_ready",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Fence(error) => error.hint(),
            Self::Placeholders(error) => error.hint(),
            Self::Source(refusal) => refusal.hint(),
            Self::ClickHouseUrl(_) => Some("fanout config show".to_owned()),
            Self::Disk(_) => Some("free space in that folder, then run it again".to_owned()),
            _ => Some("fanout status".to_owned()),
        }
    }
}
