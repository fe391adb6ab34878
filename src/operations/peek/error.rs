//! Errors of `fanout peek`.

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    sinks::inspect::InspectError,
    text::suggest::unknown,
};

/// Error of reading the latest items.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    #[error("cannot read records from kafka")]
    Kafka(#[from] KafkaError),
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("{}", unknown("topic", name, known))]
    UnknownTopic { name: String, known: Vec<String> },
    #[error(transparent)]
    Sink(#[from] InspectError),
}

impl Failure for PeekError {
    fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) => Kind::Environment,
            Self::NoTopic { .. } => Kind::Failed,
            Self::UnknownTopic { .. } => Kind::Usage,
            Self::Sink(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::NoTopic { .. } | Self::UnknownTopic { .. } => "no_topic",
            Self::Sink(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::NoTopic { .. } => "fanout connector apply",
            Self::UnknownTopic { .. } => "fanout peek --help",
            Self::Sink(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
