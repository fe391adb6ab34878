//! The latest items of Kafka or of a sink, as they are stored: records of a
//! topic, rows of the view, members of the board, calls to the external system.

mod error;
mod latest;
mod records;

use std::{fmt, time::Duration};

pub use error::PeekError;

pub use crate::sinks::inspect::Item;

use self::records::Records;
use crate::{
    config::Settings, connections::Connections, sink_kind::SinkKind, sinks::inspector::Inspector,
};

/// Time limit of a request to a sink.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the items are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Kafka,
    Sink(SinkKind),
}

impl Place {
    /// Returns the service that holds the items.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Sink(sink) => sink.service(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kafka => "kafka",
            Self::Sink(sink) => sink.name(),
        })
    }
}

/// Returns a shell command that shows the latest `count` items with common
/// tools. It uses the variables of `fanout env`.
#[must_use]
pub fn equivalent(settings: &Settings, place: Place, topic: Option<&str>, count: usize) -> String {
    match place {
        Place::Kafka => records::equivalent(settings, topic, count),
        Place::Sink(kind) => Inspector::equivalent(kind, settings, count),
    }
}

/// Reads the latest items, and then the new ones.
#[derive(Debug)]
pub struct Peek {
    connections: Connections,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Kafka(Records),
    Sink(Inspector),
}

impl Peek {
    /// Connects. With Kafka, `topic` is the topic to read instead of the events
    /// topic.
    ///
    /// # Errors
    /// If the server does not respond.
    pub async fn start(
        connections: &Connections,
        place: Place,
        topic: Option<String>,
    ) -> Result<Self, PeekError> {
        let reader = match place {
            Place::Kafka => Reader::Kafka(Records::open(connections, topic)?),
            Place::Sink(kind) => {
                Reader::Sink(Inspector::connect(kind, connections, Some(TIMEOUT)).await?)
            }
        };
        Ok(Self {
            connections: connections.clone(),
            reader,
        })
    }

    /// Returns the latest `count` items, oldest first; in later calls, the items
    /// that are new since the previous call.
    ///
    /// # Errors
    /// If the server does not respond.
    pub async fn look(&mut self, count: usize) -> Result<Vec<Item>, PeekError> {
        match &mut self.reader {
            Reader::Kafka(records) => records.latest(&self.connections, count).await,
            Reader::Sink(inspector) => Ok(inspector.latest(count).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equivalents_name_no_secret() {
        let mut settings = Settings::default();
        settings.clickhouse.url = "http://app:geheim@127.0.0.1:1".into();
        let sinks = SinkKind::ALL.map(Place::Sink);
        for place in sinks.into_iter().chain([Place::Kafka]) {
            let command = equivalent(&settings, place, None, 5);
            assert!(!command.contains("geheim"), "{command}");
        }
        let command = equivalent(&settings, Place::Kafka, Some("x"), 5);
        assert!(command.contains("-t x -o -5"), "{command}");
    }
}
