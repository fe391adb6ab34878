//! Errors that end a replay early.

use std::{io, time::Duration};

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    runtime::{Halt, error::PipelineError},
};

/// Maximum time without a record before the end is reached.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Error that ends a replay early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error("cannot read the log")]
    Kafka(#[from] KafkaError),
    #[error(
        "offset {next} of partition {partition} was deleted from the log before it was replayed"
    )]
    Gone { partition: i32, next: i64 },
    #[error("no records from the log for {}s", SILENCE.as_secs())]
    Silent,
    #[error("{}", .0.reason)]
    Halted(Halt),
    #[error("gave up after {}s: {reason}", waited.as_secs())]
    Refused { reason: String, waited: Duration },
    #[error("cannot save the progress")]
    Progress(#[source] io::Error),
    #[error("cannot use temporary files")]
    Disk(#[source] io::Error),
    #[error("stopped; run the command again to resume")]
    Stopped,
}

impl Failure for ReplayError {
    fn kind(&self) -> Kind {
        match self {
            Self::Pipeline(error) => error.kind(),
            Self::Kafka(_) | Self::Progress(_) | Self::Disk(_) => Kind::Environment,
            Self::Halted(_) | Self::Gone { .. } => Kind::Failed,
            Self::Silent | Self::Refused { .. } => Kind::NotReady,
            Self::Stopped => Kind::Interrupted(2),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Pipeline(error) => error.code(),
            Self::Kafka(_) => "kafka",
            Self::Gone { .. } => "log_gone",
            Self::Silent => "log_silent",
            Self::Halted(_) => "sink_halted",
            Self::Refused { .. } => "sink_refuses",
            Self::Progress(_) => "state_unreachable",
            Self::Disk(_) => "temporary_files",
            Self::Stopped => "stopped",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Pipeline(error) => error.hint(),
            Self::Halted(halt) => Some(halt.remedy.clone()),
            Self::Kafka(_) | Self::Silent | Self::Refused { .. } => {
                Some("fanout status".to_owned())
            }
            Self::Gone { .. } => Some("run the command again; it starts from scratch".to_owned()),
            Self::Disk(_) => {
                Some("free space in that folder, then run the command again".to_owned())
            }
            Self::Progress(_) | Self::Stopped => None,
        }
    }
}
