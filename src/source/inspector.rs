//! Looks at the source: Postgres' catalogue, the records kept of it, and the
//! connector's configuration and snapshots.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    catalogue::{CatalogueError, Reader},
    checks::{Catalogue, ConnectorState, Expected, History, Properties, relevant},
    connector::{self, ConnectorError},
    records::{Records, RecordsError},
    snapshots::Snapshots,
};
use crate::{
    connections::{Connections, postgres::PostgresError},
    failure::chain,
    kafka::KafkaError,
};

/// How long each server may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why something of the source is not known.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("postgres does not answer")]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("kafka does not answer")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("{server} did not answer within {} s", PATIENCE.as_secs())]
    TooLong { server: &'static str },
}

/// Keeps its connections from one look to the next.
#[derive(Debug)]
pub struct Inspector {
    connections: Connections,
    expected: Expected,
    reader: Option<Reader>,
    records: Records,
    snapshots: Snapshots,
}

impl Inspector {
    /// Nothing is asked before the first look.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn new(connections: &Connections) -> Result<Self, InspectError> {
        Ok(Self {
            expected: Expected::demo(&connections.settings().connector),
            reader: None,
            records: Records::new(connections)?,
            snapshots: Snapshots::new(connections)?,
            connections: connections.clone(),
        })
    }

    /// The source as it has to be.
    #[must_use]
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// The records about it.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// What Postgres has now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn catalogue(&mut self) -> Result<Catalogue, InspectError> {
        let read = async {
            let reader = if let Some(reader) = &self.reader {
                reader
            } else {
                let client = self.connections.postgres.connect().await?;
                self.reader.insert(Reader::new(client).await?)
            };
            Ok::<_, InspectError>(reader.read(&self.expected).await?)
        };
        let catalogue = within("postgres", read).await;
        if catalogue.is_err() {
            // The connection may be what is wrong.
            self.reader = None;
        }
        catalogue
    }

    /// What has been kept of it.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn history(&self) -> Result<Option<History>, InspectError> {
        let loaded = async { Ok(self.records.load().await?) };
        within("kafka", loaded).await
    }

    /// The connector's latest initial snapshot, where there was one.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn snapshot(&mut self) -> Result<Option<String>, InspectError> {
        let asked = async { Ok(self.snapshots.latest().await?) };
        within("kafka", asked).await
    }

    /// What the connector is configured with, where there is one.
    ///
    /// # Errors
    /// When Connect does not answer.
    pub async fn connector(&self) -> Result<Option<Properties>, InspectError> {
        let asked = async { Ok(connector::configuration(&self.connections).await?) };
        let found = within("connect", asked).await?;
        Ok(found.map(|found| relevant(&found)))
    }

    /// What else there is to be seen. What cannot be is left out, and the first
    /// reason returned.
    pub async fn surroundings(&mut self) -> (ConnectorState, Option<String>) {
        let (snapshot, connector) = (self.snapshot().await, self.connector().await);
        let error = snapshot.as_ref().err().or(connector.as_ref().err());
        let problem = error.map(|error| chain(error));
        let surroundings = ConnectorState {
            snapshot: snapshot.ok().flatten(),
            connector: connector.ok().flatten(),
        };
        (surroundings, problem)
    }
}

async fn within<T>(
    server: &'static str,
    asked: impl Future<Output = Result<T, InspectError>>,
) -> Result<T, InspectError> {
    let answer = timeout(PATIENCE, asked).await;
    answer.unwrap_or(Err(InspectError::TooLong { server }))
}
