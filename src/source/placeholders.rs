//! The project's placeholders, as the decoders of a process know them.
//!
//! A placeholder is stored in the state topic before the connector writes it. A decoder that
//! reloads the placeholders whenever a record may contain one therefore recognises all of them.

use std::sync::Arc;

use crate::{
    debezium::{
        SourceTable, Unavailable,
        unavailable::{InvalidPlaceholders, MARK, Placeholders, STATE_KEY},
    },
    failure::{Failure, Kind},
    kafka::{KafkaError, Log, StateTopic, chunk::Chunk},
};

/// Error while reading the placeholders.
#[derive(Debug, thiserror::Error)]
pub enum PlaceholderError {
    #[error("cannot read the placeholders from kafka")]
    Kafka(#[from] KafkaError),
    #[error("cannot read {STATE_KEY} in topic {topic}")]
    Document {
        topic: String,
        #[source]
        source: InvalidPlaceholders,
    },
}

impl Failure for PlaceholderError {
    fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) => Kind::Environment,
            Self::Document { .. } => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Document { .. } => "unknown_format",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::Document { .. } => NEWER,
        };
        Some(hint.to_owned())
    }
}

const NEWER: &str = "use the version of fanout that wrote it, or a newer one";

/// The loaded placeholders. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct KnownPlaceholders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: StateTopic,
    log: Log,
    facts: Topic,
    content: Topic,
}

#[derive(Debug)]
struct Topic {
    name: String,
    known: Unavailable,
}

impl Topic {
    fn new(table: &SourceTable) -> Self {
        Self {
            name: table.topic(),
            known: Unavailable::default(),
        }
    }
}

impl KnownPlaceholders {
    /// Creates an empty set. Sends no request yet. `log` reads the ids of the topics of both
    /// tables.
    #[must_use]
    pub fn new(state: StateTopic, log: Log, facts: &SourceTable, content: &SourceTable) -> Self {
        Self(Arc::new(Inner {
            state,
            log,
            facts: Topic::new(facts),
            content: Topic::new(content),
        }))
    }

    /// Returns the placeholders of the events topic. Later loads update them.
    #[must_use]
    pub fn facts(&self) -> Unavailable {
        self.0.facts.known.clone()
    }

    /// Returns the placeholders of the content topic. Later loads update them.
    #[must_use]
    pub fn content(&self) -> Unavailable {
        self.0.content.known.clone()
    }

    /// Loads the current placeholders.
    ///
    /// # Errors
    /// If the broker does not respond, or the document has another format.
    pub async fn load(&self) -> Result<(), PlaceholderError> {
        let Inner { log, .. } = &*self.0;
        let Some(placeholders) = self.read().await? else {
            // fanout has not configured a connector.
            return Ok(());
        };
        for topic in [&self.0.facts, &self.0.content] {
            let identity = log.identity(&topic.name).await?;
            let id = identity.map(|identity| identity.id).unwrap_or_default();
            topic.known.replace(placeholders.known_in(&topic.name, id));
        }
        Ok(())
    }

    /// Loads the current placeholders if a record of the chunk may contain one. Must be called
    /// before a chunk is decoded.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn prepare(&self, chunk: &Chunk) -> Result<(), PlaceholderError> {
        if chunk.mentions(MARK) {
            self.load().await?;
        }
        Ok(())
    }

    /// Returns the current document, or `None` if fanout has not configured a connector.
    ///
    /// # Errors
    /// If the broker does not respond, or the document has another format.
    pub async fn read(&self) -> Result<Option<Placeholders>, PlaceholderError> {
        let document = self.0.state.get(STATE_KEY).await?;
        let placeholders = document.map(|document| Placeholders::read(&document));
        placeholders
            .transpose()
            .map_err(|source| PlaceholderError::Document {
                topic: self.0.state.name().to_owned(),
                source,
            })
    }
}
