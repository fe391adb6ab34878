//! The contents of the external system for an operator: the calls that it
//! received. Only fanout's own stub lists them under its events path.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;

use super::audit::SYSTEM;
use crate::{
    config::Settings,
    connections::{
        Connections,
        web::{Answer, Method, Web, WebError},
    },
    sinks::inspect::{Arrival, Inspect, InspectError, Item, MarkedEvent},
    time::timestamp::Rfc3339,
};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the list of calls.
#[derive(Debug)]
pub(crate) struct CallInspector {
    web: Web,
    /// `seq` of the latest call returned, or 0 if there was no call.
    seq: Option<u64>,
}

impl CallInspector {
    /// Requests the calls with the event's key.
    async fn search(&self, event: &MarkedEvent) -> Result<Answer, WebError> {
        let query = format!("?key={}", event.idempotency_key);
        self.web.send(Method::GET, &query, None).await
    }
}

impl Inspect for CallInspector {
    fn equivalent(settings: &Settings, count: usize) -> String {
        // A token in the path is masked, because the command is displayed.
        let path = settings.external.events_path.to_string();
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("curl -s \"$FANOUT_EXTERNAL_URL{path}{separator}limit={count}\"")
    }

    /// Sends nothing.
    async fn connect(
        connections: &Connections,
        timeout: Option<Duration>,
    ) -> Result<Self, InspectError> {
        Ok(Self {
            web: connections.external.client(timeout.unwrap_or(TIMEOUT))?,
            seq: None,
        })
    }

    async fn latest(&mut self, count: usize) -> Result<Vec<Item>, InspectError> {
        let after = self.seq.map(|seq| format!("&after={seq}"));
        let query = format!("?limit={count}{}", after.unwrap_or_default());
        let answer = self.web.send(Method::GET, &query, None).await?;
        let mut document = answer.json();
        let Some(Json::Array(events)) = document.get_mut("events").map(Json::take) else {
            let status = answer.status;
            return Err(InspectError::NoList { status });
        };
        let mut items: Vec<Item> = events.into_iter().map(item).collect();
        if self.seq.is_none() {
            items.reverse();
        }
        let last = items.last().and_then(|item| item.document["seq"].as_u64());
        self.seq = last.or(self.seq).or(Some(0));
        Ok(items)
    }

    async fn why_unsearchable(&self, event: &MarkedEvent) -> Option<&'static str> {
        // A server that does not respond may still be starting.
        let answer = self.search(event).await.ok()?;
        calls(&answer.body)
            .is_none()
            .then_some("the external system is not fanout's stub and cannot be asked")
    }

    async fn find(&self, event: &MarkedEvent) -> Result<Arrival, InspectError> {
        let key = event.idempotency_key;
        let answer = self.search(event).await?;
        let has_call = calls(&answer.body).is_some_and(|calls| !calls.is_empty());
        Ok(if has_call {
            Arrival::Arrived(format!("key {key}"))
        } else {
            Arrival::NotYet(format!("no call under key {key}"))
        })
    }
}

fn item(document: Json) -> Item {
    let received = document["received_us"].as_i64().unwrap_or_default();
    let key = document["key"].as_str().unwrap_or_default();
    Item {
        head: Rfc3339(received).to_string(),
        body: format!("{key} {}", document["body"]),
        document,
    }
}

/// Returns the calls in a response, or `None` if it is not a response of
/// fanout's stub.
fn calls(body: &str) -> Option<Vec<Json>> {
    #[derive(Deserialize)]
    struct List {
        system: String,
        events: Vec<Json>,
    }
    let list: List = serde_json::from_str(body).ok()?;
    (list.system == SYSTEM).then_some(list.events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_the_stub_is_read() {
        let calls_of = |body: &str| calls(body).map(|calls| calls.len());
        let list = r#"{"system":"fanout-stub","next":null,"events":[{"key":"a"}]}"#;
        assert_eq!(calls_of(list), Some(1));
        assert_eq!(calls_of(r#"{"system":"other","events":[]}"#), None);
        assert_eq!(calls_of(r#"{"system":"fanout-stub"}"#), None);
        assert_eq!(calls_of("<html>"), None);
    }
}
