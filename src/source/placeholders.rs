//! What the decoders of a process know of the project's placeholders, kept as
//! fresh as the records they decode: a placeholder is in the state topic before
//! the connector writes it, so whoever meets a text that may be one, and looks
//! then, knows.

use std::sync::Arc;

use crate::{
    debezium::{
        SourceTable, Unavailable,
        unavailable::{InvalidPlaceholders, MARK, Placeholders, STATE_KEY},
    },
    failure::{Failure, Kind},
    kafka::{KafkaError, Log, StateTopic, chunk::Chunk},
};

/// Why it is not known what the placeholders are.
#[derive(Debug, thiserror::Error)]
pub enum PlaceholderError {
    #[error("kafka does not answer")]
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

/// Cheap to clone; clones know the same.
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
    fn of(table: &SourceTable) -> Self {
        Self {
            name: table.topic(),
            known: Unavailable::default(),
        }
    }
}

impl KnownPlaceholders {
    /// Nothing is sent before the first call. `log` asks for the topics of both
    /// tables.
    #[must_use]
    pub fn new(state: StateTopic, log: Log, facts: &SourceTable, content: &SourceTable) -> Self {
        Self(Arc::new(Inner {
            state,
            log,
            facts: Topic::of(facts),
            content: Topic::of(content),
        }))
    }

    /// What is known of the topic of events, now and later.
    #[must_use]
    pub fn facts(&self) -> Unavailable {
        self.0.facts.known.clone()
    }

    /// What is known of the topic of content, now and later.
    #[must_use]
    pub fn content(&self) -> Unavailable {
        self.0.content.known.clone()
    }

    /// Learns what is known by now.
    ///
    /// # Errors
    /// When the broker does not answer, or the document is of another format.
    pub async fn load(&self) -> Result<(), PlaceholderError> {
        let Inner { log, .. } = &*self.0;
        let Some(placeholders) = self.read().await? else {
            // No connector was configured by fanout.
            return Ok(());
        };
        for topic in [&self.0.facts, &self.0.content] {
            let identity = log.identity(&topic.name).await?;
            let id = identity.map(|identity| identity.id).unwrap_or_default();
            topic.known.replace(placeholders.known_in(&topic.name, id));
        }
        Ok(())
    }

    /// Has to be called before a chunk is decoded: learns what is known by now
    /// where a record may hold a placeholder.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn prepare(&self, chunk: &Chunk) -> Result<(), PlaceholderError> {
        if chunk.mentions(MARK) {
            self.load().await?;
        }
        Ok(())
    }

    /// The document as it is now; none where no connector was configured by
    /// fanout.
    ///
    /// # Errors
    /// When the broker does not answer, or the document is of another format.
    pub async fn read(&self) -> Result<Option<Placeholders>, PlaceholderError> {
        let document = self.0.state.get(STATE_KEY).await?;
        let read = document.map(|document| Placeholders::read(&document));
        read.transpose()
            .map_err(|source| PlaceholderError::Document {
                topic: self.0.state.name().to_owned(),
                source,
            })
    }
}
