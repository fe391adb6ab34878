//! Why dead letters cannot be read.

use std::io;

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    runtime::{letter::LetterId, replay::ReplayError},
    sinks::redis::renew::BoardError,
};

/// Why dead letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    #[error("kafka does not give the dead letters")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Unknown(String),
    #[error("there is no dead letter {id} in {topic}")]
    NoLetter { id: LetterId, topic: String },
    #[error("cannot use temporary files")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Board(#[from] BoardError),
}

impl Failure for DlqError {
    fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) | Self::Disk(_) => Kind::Environment,
            Self::Unknown(_) => Kind::Usage,
            Self::NoLetter { .. } => Kind::Failed,
            Self::Replay(error) => error.kind(),
            Self::Board(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Unknown(_) => "usage",
            Self::Disk(_) => "temporary_files",
            Self::NoLetter { .. } => "no_letter",
            Self::Replay(error) => error.code(),
            Self::Board(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::Unknown(_) => "fanout dlq --help",
            Self::Disk(_) => "free space in that folder, then run it again",
            Self::NoLetter { .. } => "fanout dlq ls",
            Self::Replay(error) => return error.hint(),
            Self::Board(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
