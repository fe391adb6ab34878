//! Client of Kafka Connect's REST API for one connector.
//!
//! A request is retried while Connect is not ready: nothing listens, 404 before Connect has
//! read its internal topics, 409 or 503 while it rebalances.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::{desired::Properties, error::ConnectorError, status::ConnectorStatus};
use crate::{
    connections::{
        Connections,
        web::{Answer, Method, Web},
    },
    secret::Redactor,
};

/// Timeout of one request. Connect itself allows a forwarded request 90 s, which is too long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two attempts of a request.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Number of retries of a read while Connect rebalances.
const BUSY_RETRIES: u32 = 40;

/// One connector of one Connect.
#[derive(Debug, Clone)]
pub struct Rest {
    web: Web,
    name: String,
    /// Masks secrets in responses, because Connect may repeat the configuration.
    redactor: Redactor,
}

impl Rest {
    /// Creates a client for the connector in the settings.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(connections: &Connections) -> Result<Self, ConnectorError> {
        let settings = connections.settings();
        Ok(Self {
            web: connections.connect.client(REQUEST_TIMEOUT)?,
            redactor: settings.redactor(),
            name: settings.connector.name.clone(),
        })
    }

    /// Waits until Connect has read its internal topics.
    ///
    /// # Errors
    /// If Connect is not ready by the deadline.
    pub async fn ready(&self, deadline: Instant) -> Result<(), ConnectorError> {
        let list = || (Method::GET, "/connectors".to_owned(), None);
        self.send_until(deadline, &[404], list).await?;
        Ok(())
    }

    /// Returns the connector's configuration, or `None` if Connect has no such connector.
    ///
    /// # Errors
    /// If Connect does not respond or refuses the request.
    pub async fn config(&self) -> Result<Option<Properties>, ConnectorError> {
        match self.get("/config").await? {
            Some(answer) => Ok(Some(serde_json::from_str(&answer.body)?)),
            None => Ok(None),
        }
    }

    /// Returns the connector's status, or `None` if Connect has no such connector.
    ///
    /// # Errors
    /// If Connect does not respond or refuses the request.
    pub async fn status(&self) -> Result<Option<ConnectorStatus>, ConnectorError> {
        match self.get("/status").await? {
            Some(answer) => {
                let body = self.redactor.redact(&answer.body);
                Ok(Some(ConnectorStatus::read(&body)?))
            }
            None => Ok(None),
        }
    }

    /// Creates or changes the connector.
    ///
    /// # Errors
    /// If Connect rejects the configuration. The error contains Connect's message.
    pub async fn put_config(
        &self,
        properties: &Properties,
        deadline: Instant,
    ) -> Result<(), ConnectorError> {
        let body = json!(properties);
        self.change(Method::PUT, "/config", Some(&body), deadline)
            .await
    }

    /// Restarts the connector and its tasks, or only the failed ones.
    ///
    /// # Errors
    /// If there is no such connector or Connect refuses the request.
    pub async fn restart(
        &self,
        only_failed: bool,
        deadline: Instant,
    ) -> Result<(), ConnectorError> {
        let path = format!("/restart?includeTasks=true&onlyFailed={only_failed}");
        self.change(Method::POST, &path, None, deadline).await
    }

    /// Sends `pause`, `resume` or `stop`.
    ///
    /// # Errors
    /// If there is no such connector or Connect refuses the request.
    pub async fn put(&self, verb: &str, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::PUT, &format!("/{verb}"), None, deadline)
            .await
    }

    /// Deletes the connector's position. The connector must be stopped.
    ///
    /// # Errors
    /// If there is no such connector or Connect refuses the request.
    pub async fn delete_offsets(&self, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::DELETE, "/offsets", None, deadline)
            .await
    }

    /// Deletes the connector. Connect keeps its position.
    ///
    /// # Errors
    /// If there is no such connector or Connect refuses the request.
    pub async fn delete(&self, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::DELETE, "", None, deadline).await
    }

    async fn get(&self, path: &str) -> Result<Option<Answer>, ConnectorError> {
        let path = self.path(path);
        let mut answer = self.web.send(Method::GET, &path, None).await?;
        for _ in 0..BUSY_RETRIES {
            // While Connect rebalances, it refuses reads too.
            if !matches!(answer.status, 409 | 503) {
                break;
            }
            sleep(RETRY_PAUSE).await;
            answer = self.web.send(Method::GET, &path, None).await?;
        }
        match answer.status {
            404 => Ok(None),
            200..300 => Ok(Some(answer)),
            _ => Err(self.refused(&answer)),
        }
    }

    async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
        deadline: Instant,
    ) -> Result<(), ConnectorError> {
        let path = self.path(path);
        self.send_until(deadline, &[], || {
            (method.clone(), path.clone(), body.cloned())
        })
        .await?;
        Ok(())
    }

    /// Retries a request until Connect accepts it, refuses it permanently, or the deadline
    /// passes. `not_ready` lists further statuses that mean that Connect is not ready.
    async fn send_until(
        &self,
        deadline: Instant,
        not_ready: &[u16],
        request: impl Fn() -> (Method, String, Option<Json>),
    ) -> Result<Answer, ConnectorError> {
        loop {
            let (method, path, body) = request();
            let reason = match self.web.send(method, &path, body.as_ref()).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer)
                    if matches!(answer.status, 409 | 503) || not_ready.contains(&answer.status) =>
                {
                    format!("status {}: {}", answer.status, self.message(&answer))
                }
                Ok(answer) => return Err(self.refused(&answer)),
                Err(error) if error.is_unreachable() => crate::failure::chain(&error),
                Err(error) => return Err(error.into()),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(ConnectorError::ConnectNotReady {
                    url: self.web.base().clone(),
                    reason,
                });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn path(&self, suffix: &str) -> String {
        format!("/connectors/{}{suffix}", self.name)
    }

    /// Returns the error for a missing connector.
    pub(super) fn missing(&self) -> ConnectorError {
        ConnectorError::Missing {
            name: self.name.clone(),
        }
    }

    /// Returns the error for a connector that does not run in time.
    pub(super) fn not_running(&self, status: Option<ConnectorStatus>) -> ConnectorError {
        ConnectorError::NotReady {
            name: self.name.clone(),
            state: status.map_or_else(
                || "unknown to connect".to_owned(),
                |status| status.summary(),
            ),
        }
    }

    fn refused(&self, answer: &Answer) -> ConnectorError {
        if answer.status == 404 {
            return self.missing();
        }
        ConnectorError::Refused {
            status: answer.status,
            message: self.message(answer),
        }
    }

    /// Returns the message in Connect's response, with secrets masked.
    fn message(&self, answer: &Answer) -> String {
        let text = match answer.json().get("message").and_then(Json::as_str) {
            Some(text) => text.replace('\n', " "),
            None => answer.body.chars().take(200).collect(),
        };
        self.redactor.redact(&text).into_owned()
    }
}
