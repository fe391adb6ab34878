//! The connector's latest initial snapshot, found in the connector's notifications. The
//! connector takes an initial snapshot if its slot or position is new. Rows that were deleted
//! before a snapshot are missing from it.

use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    connections::Connections,
    kafka::{Kafka, KafkaError, Log, Stretch},
    source::tables::reader_group,
};

/// Reader of the connector's notifications.
#[derive(Debug)]
pub struct Snapshots {
    kafka: Kafka,
    group: String,
    log: Log,
    topic: String,
    /// Id of the topic that was read. A recreated topic has another one.
    incarnation: Uuid,
    /// Offset of the next notification to read.
    next: i64,
    latest: Option<String>,
}

impl Snapshots {
    /// Creates the reader. Sends no request yet.
    ///
    /// # Errors
    /// If a Kafka client cannot be created.
    pub fn new(connections: &Connections) -> Result<Self, KafkaError> {
        let (settings, kafka) = (connections.settings(), &connections.kafka);
        let group = reader_group(settings, "source");
        Ok(Self {
            log: kafka.log(&group)?,
            kafka: kafka.clone(),
            group,
            topic: format!("{}.notifications", settings.kafka.topic_prefix),
            incarnation: Uuid::nil(),
            next: 0,
            latest: None,
        })
    }

    /// Returns the id of the notification that the latest initial snapshot has started.
    /// Returns `None` if there is no such notification.
    ///
    /// # Errors
    /// If the broker does not respond.
    pub async fn latest(&mut self) -> Result<Option<String>, KafkaError> {
        let Some(identity) = self.log.identity(&self.topic).await? else {
            return Ok(None);
        };
        let bounds = self.log.bounds(&self.topic).await?;
        let Some(bounds) = bounds.first() else {
            return Ok(None);
        };
        if identity.id != self.incarnation || bounds.end < self.next {
            self.incarnation = identity.id;
            self.next = 0;
            self.latest = None;
        }
        let stretch = Stretch {
            partition: 0,
            from: self.next.max(bounds.start),
            until: Some(bounds.end),
        };
        let mut scan = self.kafka.scan(&self.group, &self.topic, &[stretch])?;
        while let Some(seen) = scan.next().await? {
            if let Some(id) = seen.value.as_deref().and_then(snapshot_start) {
                self.latest = Some(id);
            }
        }
        self.next = bounds.end;
        Ok(self.latest.clone())
    }
}

/// Returns the notification's id if it reports the start of an initial snapshot.
fn snapshot_start(value: &[u8]) -> Option<String> {
    let value: Json = serde_json::from_slice(value).ok()?;
    let is_start = value["aggregate_type"] == "Initial Snapshot" && value["type"] == "STARTED";
    is_start.then(|| value["id"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_an_initial_snapshot_counts() {
        let notification = |kind: &str, aggregate: &str| {
            format!(
                r#"{{"id":"a-1","type":"{kind}","aggregate_type":"{aggregate}","additional_data":{{"connector_name":"cdc"}},"timestamp":1795821090114}}"#
            )
        };
        let id = |text: String| snapshot_start(text.as_bytes());
        assert_eq!(
            id(notification("STARTED", "Initial Snapshot")),
            Some("a-1".to_owned())
        );
        for (kind, aggregate) in [
            ("COMPLETED", "Initial Snapshot"),
            ("SKIPPED", "Initial Snapshot"),
            ("STARTED", "Incremental Snapshot"),
        ] {
            assert_eq!(id(notification(kind, aggregate)), None);
        }
        assert_eq!(snapshot_start(b"no document"), None);
    }
}
