//! When the connector last began with a snapshot of everything, by its
//! notifications: it does so on a slot or position that it does not know, and
//! what was deleted before is in no snapshot.

use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    connections::Connections,
    kafka::{Kafka, KafkaError, Log, Stretch},
    source::tables::reader_group,
};

/// The notifications, read as they come.
#[derive(Debug)]
pub struct Snapshots {
    kafka: Kafka,
    group: String,
    log: Log,
    topic: String,
    /// Which topic of this name was read, and up to where.
    incarnation: Uuid,
    next: i64,
    latest: Option<String>,
}

impl Snapshots {
    /// Nothing is asked before the first call.
    ///
    /// # Errors
    /// When a client cannot be made.
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

    /// The id of the notification with which the latest initial snapshot
    /// began; none where no notification of one is there.
    ///
    /// # Errors
    /// When the broker does not answer.
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
            if let Some(id) = seen.value.as_deref().and_then(beginning) {
                self.latest = Some(id);
            }
        }
        self.next = bounds.end;
        Ok(self.latest.clone())
    }
}

/// The id of a notification that an initial snapshot has begun.
fn beginning(value: &[u8]) -> Option<String> {
    let value: Json = serde_json::from_slice(value).ok()?;
    let begins = value["aggregate_type"] == "Initial Snapshot" && value["type"] == "STARTED";
    begins.then(|| value["id"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_an_initial_snapshot_counts() {
        let notification = |kind: &str, of: &str| {
            format!(
                r#"{{"id":"a-1","type":"{kind}","aggregate_type":"{of}","additional_data":{{"connector_name":"cdc"}},"timestamp":1795821090114}}"#
            )
        };
        let id = |text: String| beginning(text.as_bytes());
        assert_eq!(
            id(notification("STARTED", "Initial Snapshot")),
            Some("a-1".to_owned())
        );
        for (kind, of) in [
            ("COMPLETED", "Initial Snapshot"),
            ("SKIPPED", "Initial Snapshot"),
            ("STARTED", "Incremental Snapshot"),
        ] {
            assert_eq!(id(notification(kind, of)), None);
        }
        assert_eq!(beginning(b"no document"), None);
    }
}
