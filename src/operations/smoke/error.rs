//! Errors of `fanout smoke`.

use crate::{
    connections::postgres::{self, PostgresError},
    failure::{Failure, Kind},
    kafka::KafkaError,
    source::Refusal,
};

/// Error that leaves no event to follow.
#[derive(Debug, thiserror::Error)]
pub enum SmokeError {
    #[error("cannot write the marked event to postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot write the marked event to postgres")]
    Source(#[source] Refusal),
    #[error("kafka does not answer")]
    Kafka(#[from] KafkaError),
}

impl Failure for SmokeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Postgres(error) if !postgres::is_unreachable(error) => Kind::Failed,
            Self::Source(refusal) => refusal.kind(),
            Self::Postgres(_) | Self::Kafka(_) => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Source(refusal) => refusal.code(),
            Self::Kafka(_) => "kafka",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Source(refusal) => refusal.hint(),
            Self::Postgres(error) if !postgres::is_unreachable(error) => {
                Some("fanout doctor --source".to_owned())
            }
            Self::Postgres(_) | Self::Kafka(_) => Some("fanout up".to_owned()),
        }
    }
}
