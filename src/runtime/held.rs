//! Stores the offsets at which a schema mismatch halts a sink in the state topic.
//! A restarted worker, or the next owner of the partition, must not dead-letter
//! the records there as single bad records.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kafka::{KafkaError, StateTopic};

/// Format of the document.
const FORMAT: u16 = 1;

/// Stored halt of one partition of one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    format: u16,
    /// Id of the topic. A recreated topic has other records.
    topic_id: Uuid,
    /// Offset of the record that halts the sink. `None` if it is not halted.
    offset: Option<i64>,
}

/// Stored halts of one sink.
#[derive(Debug)]
pub(super) struct HaltStore {
    state: StateTopic,
    group: String,
}

impl HaltStore {
    /// `group` is the sink's consumer group.
    pub(super) fn new(state: StateTopic, group: String) -> Self {
        Self { state, group }
    }

    /// Returns the offset at which the partition is halted, if it is.
    pub(super) async fn load(
        &self,
        partition: i32,
        topic_id: Uuid,
    ) -> Result<Option<i64>, KafkaError> {
        let bytes = self.state.get(&self.key(partition)).await?;
        Ok(bytes.and_then(|bytes| read(&bytes, topic_id)))
    }

    /// Stores the offset at which the partition is halted, or `None` if it is no
    /// longer halted.
    pub(super) async fn store(&self, partition: i32, topic_id: Uuid, offset: Option<i64>) {
        let document = Document {
            format: FORMAT,
            topic_id,
            offset,
        };
        // Numbers and a UUID always serialise.
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        if let Err(error) = self.state.set(&self.key(partition), &bytes).await {
            let group = &self.group;
            tracing::warn!(group, partition, %error, "cannot store the halt");
        }
    }

    fn key(&self, partition: i32) -> String {
        format!("held/{}/{partition}", self.group)
    }
}

/// Returns the halt offset in a document. `None` if the document belongs to
/// another topic or has another format; the records are then checked again.
fn read(bytes: &[u8], topic_id: Uuid) -> Option<i64> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    let is_current = document.format == FORMAT && document.topic_id == topic_id;
    document.offset.filter(|_| is_current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_document_is_stable() {
        let id = Uuid::from_u128(7);
        let text = r#"{"format":1,"topic_id":"00000000-0000-0000-0000-000000000007","offset":5}"#;
        let document = Document {
            format: FORMAT,
            topic_id: id,
            offset: Some(5),
        };
        assert_eq!(serde_json::to_string(&document).ok().as_deref(), Some(text));
        assert_eq!(read(text.as_bytes(), id), Some(5));
        assert_eq!(read(text.as_bytes(), Uuid::from_u128(8)), None);
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert_eq!(read(newer.as_bytes(), id), None);
        let none = text.replace('5', "null");
        assert_eq!(read(none.as_bytes(), id), None);
    }
}
