//! Why the pipeline does not start.

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    sink_kind::SinkKind,
};

/// Why the pipeline does not start. Problems after the start are reported in
/// its status.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("a kafka client cannot be made for {brokers}")]
    Kafka {
        brokers: String,
        #[source]
        source: KafkaError,
    },
    #[error("the {sink} sink cannot be set up: {reason}")]
    Sink { sink: SinkKind, reason: String },
}

impl Failure for PipelineError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka { .. } => "pipeline_kafka",
            Self::Sink { .. } => "pipeline_sink",
        }
    }

    fn hint(&self) -> Option<String> {
        Some("fanout config show".to_owned())
    }
}
