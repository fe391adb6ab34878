//! Errors while managing the connector.

use super::{remedy, status::State};
use crate::{
    config::Settings,
    connections::{
        postgres::{InvalidUrl, PostgresError},
        web::WebError,
    },
    failure::{Failure, Kind},
    kafka::KafkaError,
    secret::SecretUrl,
    source::placeholders::PlaceholderError,
    stack::StateError,
    text::template::TemplateError,
};

/// Error while managing the connector.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("postgres.url is not valid")]
    PostgresUrl(#[source] InvalidUrl),
    #[error("cannot access the replication slot in postgres")]
    Postgres(#[source] PostgresError),
    #[error("cannot access the topics of the connector in kafka")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Placeholder(#[from] PlaceholderError),
    #[error(
        "connector.properties sets unavailable.value.placeholder, but fanout must choose it, so that no stored text can be mistaken for it"
    )]
    OwnPlaceholder,
    #[error("cannot fill the connector's template")]
    Template(#[from] TemplateError),
    #[error("cannot parse a response of kafka connect")]
    Document(#[from] serde_json::Error),
    #[error("cannot reach kafka connect")]
    Web(#[from] WebError),
    #[error("kafka connect at {url} is not ready: {reason}")]
    ConnectNotReady { url: SecretUrl, reason: String },
    #[error("kafka connect refused the request with status {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("connector {name} does not exist")]
    Missing { name: String },
    #[error("connector {name} is not running yet: {state}")]
    NotReady { name: String, state: String },
    #[error("connector {name} is running but not connected to postgres")]
    NotConnected { name: String },
    #[error("connector {name} is {state}")]
    Paused { name: String, state: State },
    #[error("connector {name} has failed: {cause}")]
    Failed { name: String, cause: String },
    #[error("connector.properties contains secrets that kafka connect was not started with")]
    SecretsChanged,
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "connector {name} has failed: replication slot {slot} no longer has the position that kafka connect remembers"
    )]
    SlotLost { name: String, slot: String },
}

impl ConnectorError {
    /// Returns the error for a failed task with this root cause.
    pub(super) fn failed(settings: &Settings, cause: String) -> Self {
        let name = settings.connector.name.clone();
        if remedy::is_slot_lost(&cause) {
            let slot = settings.connector.slot.clone();
            return Self::SlotLost { name, slot };
        }
        Self::Failed { name, cause }
    }
}

impl Failure for ConnectorError {
    fn kind(&self) -> Kind {
        match self {
            Self::PostgresUrl(_) | Self::Template(_) | Self::OwnPlaceholder => Kind::Usage,
            Self::Placeholder(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::ConnectNotReady { .. } | Self::NotReady { .. } | Self::NotConnected { .. } => {
                Kind::NotReady
            }
            Self::Postgres(_) | Self::Kafka(_) => Kind::Environment,
            Self::Web(error) if error.is_unreachable() => Kind::NotReady,
            Self::Web(_)
            | Self::Document(_)
            | Self::Refused { .. }
            | Self::Missing { .. }
            | Self::Paused { .. }
            | Self::Failed { .. }
            | Self::SecretsChanged
            | Self::SlotLost { .. } => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::PostgresUrl(_) => "postgres_url",
            Self::Postgres(_) => "postgres",
            Self::Kafka(_) => "kafka",
            Self::Placeholder(error) => error.code(),
            Self::OwnPlaceholder => "connector_properties",
            Self::Template(_) => "connector_template",
            Self::Document(_) => "connect_document",
            Self::Web(_) | Self::ConnectNotReady { .. } => "connect_not_ready",
            Self::Refused { .. } => "connect_refused",
            Self::Missing { .. } => "connector_missing",
            Self::NotReady { .. } => "connector_not_ready",
            Self::NotConnected { .. } => "connector_not_connected",
            Self::Paused { .. } => "connector_paused",
            Self::Failed { .. } => "connector_failed",
            Self::SecretsChanged => "connector_secrets",
            Self::SlotLost { .. } => "slot_lost",
            Self::State(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::PostgresUrl(_) | Self::Template(_) => "fanout config show",
            Self::Postgres(_) | Self::Kafka(_) => "fanout status",
            Self::Placeholder(error) => return error.hint(),
            Self::OwnPlaceholder => {
                "remove unavailable.value.placeholder from connector.properties, then fanout up"
            }
            Self::Document(_) => "fanout logs connect --tail 50",
            Self::State(error) => return error.hint(),
            Self::Web(_) | Self::ConnectNotReady { .. } => "fanout up connect",
            Self::Failed { cause, .. } if remedy::is_record_too_large(cause) => remedy::TOO_LARGE,
            Self::Refused { .. } | Self::Failed { .. } | Self::NotConnected { .. } => {
                "fanout logs connect --tail 50"
            }
            Self::Missing { .. } => "fanout connector apply",
            Self::NotReady { .. } => "fanout connector status",
            Self::SecretsChanged => "fanout up",
            Self::Paused { .. } => "fanout connector resume",
            Self::SlotLost { .. } => remedy::SLOT_LOST,
        };
        Some(hint.to_owned())
    }
}
