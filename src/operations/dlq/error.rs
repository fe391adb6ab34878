//! Errors of the `dlq` commands.

use std::io;

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    runtime::{letter::DeadLetterId, replay::ReplayError},
    sinks::redis::renew::BoardError,
};

/// Error of a `dlq` command.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    #[error("cannot read or write dead letters in kafka")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Unknown(String),
    #[error("no dead letter {id} in {topic}")]
    NotFound { id: DeadLetterId, topic: String },
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
            Self::NotFound { .. } => Kind::Failed,
            Self::Replay(error) => error.kind(),
            Self::Board(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Unknown(_) => "usage",
            Self::Disk(_) => "temporary_files",
            Self::NotFound { .. } => "no_letter",
            Self::Replay(error) => error.code(),
            Self::Board(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::Unknown(_) => "fanout dlq --help",
            Self::Disk(_) => "free space in that folder, then run the command again",
            Self::NotFound { .. } => "fanout dlq ls",
            Self::Replay(error) => return error.hint(),
            Self::Board(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
