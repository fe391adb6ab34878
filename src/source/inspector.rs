//! Inspects the source: the catalogue of Postgres, the recorded history, and the connector's
//! configuration and snapshots.

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

/// Timeout of each server.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Error while inspecting the source.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read from postgres")]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("cannot read from kafka")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("{server} did not respond within {} s", PATIENCE.as_secs())]
    TooLong { server: &'static str },
}

/// Inspector of the source. Keeps its connections between inspections.
#[derive(Debug)]
pub struct Inspector {
    connections: Connections,
    expected: Expected,
    reader: Option<Reader>,
    records: Records,
    snapshots: Snapshots,
}

impl Inspector {
    /// Creates an inspector. Sends no request yet.
    ///
    /// # Errors
    /// If a Kafka client cannot be created.
    pub fn new(connections: &Connections) -> Result<Self, InspectError> {
        Ok(Self {
            expected: Expected::demo(&connections.settings().connector),
            reader: None,
            records: Records::new(connections)?,
            snapshots: Snapshots::new(connections)?,
            connections: connections.clone(),
        })
    }

    /// Returns the required state of the source.
    #[must_use]
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Returns the recorded history of the source.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Returns the current catalogue of Postgres.
    ///
    /// # Errors
    /// If Postgres does not respond.
    pub async fn catalogue(&mut self) -> Result<Catalogue, InspectError> {
        let request = async {
            let reader = if let Some(reader) = &self.reader {
                reader
            } else {
                let client = self.connections.postgres.connect().await?;
                self.reader.insert(Reader::new(client).await?)
            };
            Ok::<_, InspectError>(reader.read(&self.expected).await?)
        };
        let catalogue = with_timeout("postgres", request).await;
        if catalogue.is_err() {
            // The connection may be broken.
            self.reader = None;
        }
        catalogue
    }

    /// Returns the recorded history, or `None` if nothing was recorded yet.
    ///
    /// # Errors
    /// If Kafka does not respond.
    pub async fn history(&self) -> Result<Option<History>, InspectError> {
        let request = async { Ok(self.records.load().await?) };
        with_timeout("kafka", request).await
    }

    /// Returns the id of the connector's latest initial snapshot, or `None` if there was none.
    ///
    /// # Errors
    /// If Kafka does not respond.
    pub async fn snapshot(&mut self) -> Result<Option<String>, InspectError> {
        let request = async { Ok(self.snapshots.latest().await?) };
        with_timeout("kafka", request).await
    }

    /// Returns the connector's properties that determine what is delivered, or `None` if there
    /// is no connector.
    ///
    /// # Errors
    /// If Connect does not respond.
    pub async fn connector(&self) -> Result<Option<Properties>, InspectError> {
        let request = async { Ok(connector::configuration(&self.connections).await?) };
        let configuration = with_timeout("connect", request).await?;
        Ok(configuration.map(|configuration| relevant(&configuration)))
    }

    /// Returns the connector's latest snapshot and its properties. A part that cannot be read
    /// is `None`, and the first error is returned beside them.
    pub async fn connector_state(&mut self) -> (ConnectorState, Option<String>) {
        let (snapshot, connector) = (self.snapshot().await, self.connector().await);
        let error = snapshot.as_ref().err().or(connector.as_ref().err());
        let problem = error.map(|error| chain(error));
        let state = ConnectorState {
            snapshot: snapshot.ok().flatten(),
            connector: connector.ok().flatten(),
        };
        (state, problem)
    }
}

async fn with_timeout<T>(
    server: &'static str,
    request: impl Future<Output = Result<T, InspectError>>,
) -> Result<T, InspectError> {
    let response = timeout(PATIENCE, request).await;
    response.unwrap_or(Err(InspectError::TooLong { server }))
}
