//! Kafka Connect's REST, as far as one connector needs it.
//!
//! Knows which answers mean "not yet": nothing listens, 404 before Connect has
//! read its own topics, 409 while it rebalances.

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

/// Connect answers a forwarded request within 90 s; nobody waits that long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two tries of a request that has to wait.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Tries of a look while Connect rebalances.
const BUSY_TRIES: u32 = 40;

/// One connector of one Connect.
#[derive(Debug, Clone)]
pub struct Rest {
    web: Web,
    name: String,
    /// Connect may repeat what it was sent.
    redactor: Redactor,
}

impl Rest {
    /// The connector that the settings name.
    ///
    /// # Errors
    /// When the system's TLS cannot be set up.
    pub fn new(connections: &Connections) -> Result<Self, ConnectorError> {
        let settings = connections.settings();
        Ok(Self {
            web: connections.connect.client(REQUEST_TIMEOUT)?,
            redactor: settings.redactor(),
            name: settings.connector.name.clone(),
        })
    }

    /// Waits until Connect has read its own topics.
    ///
    /// # Errors
    /// When it has not by the deadline.
    pub async fn ready(&self, deadline: Instant) -> Result<(), ConnectorError> {
        let all = || (Method::GET, "/connectors".to_owned(), None);
        self.insist(deadline, &[404], all).await?;
        Ok(())
    }

    /// The configuration Connect has, if it has one.
    ///
    /// # Errors
    /// When Connect does not answer or refuses.
    pub async fn config(&self) -> Result<Option<Properties>, ConnectorError> {
        match self.get("/config").await? {
            Some(answer) => Ok(Some(serde_json::from_str(&answer.body)?)),
            None => Ok(None),
        }
    }

    /// What Connect says of the connector, if it knows it.
    ///
    /// # Errors
    /// When Connect does not answer or refuses.
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
    /// When Connect finds the configuration wrong, with its words.
    pub async fn put_config(
        &self,
        properties: &Properties,
        deadline: Instant,
    ) -> Result<(), ConnectorError> {
        let body = json!(properties);
        self.change(Method::PUT, "/config", Some(&body), deadline)
            .await
    }

    /// Restarts the connector and its tasks, or only what has failed of them.
    ///
    /// # Errors
    /// When there is no such connector or Connect refuses.
    pub async fn restart(
        &self,
        only_failed: bool,
        deadline: Instant,
    ) -> Result<(), ConnectorError> {
        let path = format!("/restart?includeTasks=true&onlyFailed={only_failed}");
        self.change(Method::POST, &path, None, deadline).await
    }

    /// `pause`, `resume` or `stop`.
    ///
    /// # Errors
    /// When there is no such connector or Connect refuses.
    pub async fn put(&self, verb: &str, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::PUT, &format!("/{verb}"), None, deadline)
            .await
    }

    /// Forgets the connector's position. It has to be stopped.
    ///
    /// # Errors
    /// When there is no such connector or Connect refuses.
    pub async fn delete_offsets(&self, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::DELETE, "/offsets", None, deadline)
            .await
    }

    /// Removes the connector; its position stays with Connect.
    ///
    /// # Errors
    /// When there is no such connector or Connect refuses.
    pub async fn delete(&self, deadline: Instant) -> Result<(), ConnectorError> {
        self.change(Method::DELETE, "", None, deadline).await
    }

    async fn get(&self, path: &str) -> Result<Option<Answer>, ConnectorError> {
        let path = self.path(path);
        let mut answer = self.web.send(Method::GET, &path, None).await?;
        for _ in 0..BUSY_TRIES {
            // It rebalances, and says so to readers too.
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
        self.insist(deadline, &[], || {
            (method.clone(), path.clone(), body.cloned())
        })
        .await?;
        Ok(())
    }

    /// Sends a request again until Connect takes it or refuses it for good.
    async fn insist(
        &self,
        deadline: Instant,
        not_yet: &[u16],
        request: impl Fn() -> (Method, String, Option<Json>),
    ) -> Result<Answer, ConnectorError> {
        loop {
            let (method, path, body) = request();
            let reason = match self.web.send(method, &path, body.as_ref()).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer)
                    if matches!(answer.status, 409 | 503) || not_yet.contains(&answer.status) =>
                {
                    format!("it answers {}: {}", answer.status, self.message(&answer))
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

    fn path(&self, below: &str) -> String {
        format!("/connectors/{}{below}", self.name)
    }

    /// Connect has no such connector.
    pub(super) fn missing(&self) -> ConnectorError {
        ConnectorError::Missing {
            name: self.name.clone(),
        }
    }

    /// The connector does not run in time.
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

    /// What Connect says, without the document around it.
    fn message(&self, answer: &Answer) -> String {
        let text = match answer.json().get("message").and_then(Json::as_str) {
            Some(text) => text.replace('\n', " "),
            None => answer.body.chars().take(200).collect(),
        };
        self.redactor.redact(&text).into_owned()
    }
}
