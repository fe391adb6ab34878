//! Errors on starting the pipeline.

use crate::{
    failure::{Failure, Kind},
    kafka::KafkaError,
    sink_kind::SinkKind,
};

/// Error on starting the pipeline. Later problems are reported in its status.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("cannot create a kafka client for {brokers}")]
    Kafka {
        brokers: String,
        #[source]
        source: KafkaError,
    },
    #[error("cannot set up the {sink} sink: {reason}")]
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
