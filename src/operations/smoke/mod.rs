//! One marked event, followed by its id through every hop: topic, ClickHouse,
//! board, external call. Measured from its commit in Postgres.

mod hops;
mod junit;
mod marked;

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use junit::junit;

use self::marked::Marked;
use super::{
    fence::content_topic,
    source::{Refusal, explain},
    steps::Steps,
};
use crate::{
    clients::{
        clickhouse::InvalidUrl,
        kafka::KafkaError,
        postgres::{self, PostgresError},
        redis::RedisError,
        web::WebError,
    },
    config::Settings,
    failure::{Failure, Kind},
    progress::Progress,
    sink_kind::SinkKind,
};

/// How long to wait, and how fast it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// For all hops together.
    pub timeout: Duration,
    /// From the commit in Postgres to the board.
    pub latency_budget: Duration,
}

/// A place the event comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Kafka,
    ClickHouse,
    Redis,
    Http,
}

impl Place {
    /// Where the event ends in a sink.
    fn of(sink: SinkKind) -> Self {
        match sink {
            SinkKind::Redis => Self::Redis,
            SinkKind::ClickHouse => Self::ClickHouse,
            SinkKind::Http => Self::Http,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Redis => "redis",
            Self::Http => "http",
        }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Broken,
    Skipped,
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hop {
    pub place: Place,
    pub outcome: Outcome,
    /// From the commit in Postgres until it was seen.
    pub millis: Option<f64>,
    /// What was seen, or what was not and why.
    pub evidence: String,
    pub hint: Option<String>,
}

/// The way of the event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub event_id: i64,
    pub content_id: uuid::Uuid,
    pub latency_budget_ms: u64,
    pub hops: Vec<Hop>,
}

impl Report {
    /// The first hop that is broken, in the order of the way.
    #[must_use]
    pub fn broken(&self) -> Option<&Hop> {
        let mut hops = self.hops.iter();
        hops.find(|hop| hop.outcome == Outcome::Broken)
    }
}

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

/// Follows one event. The rows are deleted again at the end; the deletes go
/// the same way.
///
/// # Errors
/// When Postgres does not take the event: then there is nothing to follow. A
/// hop that fails is no error.
pub async fn smoke(
    settings: &Settings,
    options: Options,
    progress: &dyn Progress,
) -> Result<Report, SmokeError> {
    let steps = Steps::new(progress, "smoke");
    let client = postgres::connect(&settings.postgres.url).await?;
    // Before the event, so that it cannot slip by.
    let topic = hops::Topic::watch(settings).await;
    let marked = match Marked::insert(&client).await {
        Ok(marked) => marked,
        Err(error) => {
            let refusal = explain(settings).await;
            return Err(refusal.map_or(SmokeError::Postgres(error), SmokeError::Source));
        }
    };
    let committed = Instant::now();
    let follow = hops::Follow {
        settings,
        marked: &marked,
        committed,
        deadline: committed + options.timeout,
        budget: options.latency_budget,
    };
    steps.doing(&format!("following event {}", marked.event_id));
    let (kafka, clickhouse, redis, http) = tokio::join!(
        follow.kafka(topic),
        follow.clickhouse(),
        follow.redis(),
        follow.http()
    );
    let report = Report {
        event_id: marked.event_id,
        content_id: marked.content_id,
        latency_budget_ms: u64::try_from(options.latency_budget.as_millis()).unwrap_or(u64::MAX),
        hops: vec![kafka, clickhouse, redis, http],
    };
    // What was followed is of no more use; if this fails, it only stays.
    if let Err(error) = marked.delete(&client).await {
        tracing::debug!(%error, "the marked rows stay");
    }
    steps.done("followed");
    Ok(report)
}

/// What the hint for a silent topic is about.
fn topics(settings: &Settings) -> String {
    format!(
        "{} and {}",
        super::fence::events_topic(settings),
        content_topic(settings)
    )
}
