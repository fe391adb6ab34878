//! Where a sink is halted by the shape of a record, kept in the state topic: a
//! worker that is started again, or takes the partition over, must not take the
//! records there for single bad ones.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kafka::{KafkaError, StateTopic};

/// Format of the document.
const FORMAT: u16 = 1;

/// What is kept of one partition of one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    format: u16,
    /// A topic that was recreated has other records.
    topic_id: Uuid,
    /// The sink halts before this; none where it goes on.
    offset: Option<i64>,
}

/// The documents of one sink.
#[derive(Debug)]
pub(super) struct Held {
    state: StateTopic,
    group: String,
}

impl Held {
    /// `group` is the sink's consumer group.
    pub(super) fn new(state: StateTopic, group: String) -> Self {
        Self { state, group }
    }

    /// The offset that this partition halts before, if it does.
    pub(super) async fn load(
        &self,
        partition: i32,
        topic_id: Uuid,
    ) -> Result<Option<i64>, KafkaError> {
        let bytes = self.state.get(&self.key(partition)).await?;
        Ok(bytes.and_then(|bytes| read(&bytes, topic_id)))
    }

    /// Keeps the offset that this partition halts before, or that it goes on.
    pub(super) async fn keep(&self, partition: i32, topic_id: Uuid, offset: Option<i64>) {
        let document = Document {
            format: FORMAT,
            topic_id,
            offset,
        };
        // Numbers and a UUID always serialise.
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        if let Err(error) = self.state.set(&self.key(partition), &bytes).await {
            let group = &self.group;
            tracing::warn!(group, partition, %error, "where the sink halts is not kept");
        }
    }

    fn key(&self, partition: i32) -> String {
        format!("held/{}/{partition}", self.group)
    }
}

/// What a document says of this topic. One of another format says nothing: its
/// records are judged anew.
fn read(bytes: &[u8], topic_id: Uuid) -> Option<i64> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    let is_ours = document.format == FORMAT && document.topic_id == topic_id;
    document.offset.filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_keeps_its_form() {
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
