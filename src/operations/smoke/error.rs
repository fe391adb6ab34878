//! Why there is nothing to follow.

use crate::{
    connections::{
        clickhouse::InvalidUrl,
        postgres::{self, PostgresError},
        redis::RedisError,
        web::WebError,
    },
    failure::{Failure, Kind},
    kafka::KafkaError,
    source::Refusal,
};

/// Why there is nothing to follow.
#[derive(Debug, thiserror::Error)]
pub enum SmokeError {
    #[error("cannot write the marked event to postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot write the marked event to postgres")]
    Source(#[source] Refusal),
    #[error("kafka does not answer")]
    Kafka(#[from] KafkaError),
    #[error("cannot read the board from redis")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("the external system cannot be asked")]
    Web(#[from] WebError),
}

impl Failure for SmokeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Postgres(error) if !postgres::is_unreachable(error) => Kind::Failed,
            Self::Source(refusal) => refusal.kind(),
            Self::Url(_) => Kind::Usage,
            _ => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Source(refusal) => refusal.code(),
            Self::Kafka(_) => "kafka",
            Self::Redis(_) => "redis",
            Self::Url(_) => "clickhouse_url",
            Self::Web(_) => "external",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Source(refusal) => refusal.hint(),
            Self::Postgres(error) if !postgres::is_unreachable(error) => {
                Some("fanout doctor --source".to_owned())
            }
            _ => Some("fanout up".to_owned()),
        }
    }
}
