//! The recorded state of a consumer group, which must not be stored in its committed
//! offsets alone. Kafka deletes those together with the topic, after the retention
//! time without a commit, and on request. The state is stored in the state topic as
//! JSON with a format number, one key per item.
//!
//! ```text
//! <group>/committed/<partition>   {"format":1,"topic":…,"ended_at":…}  the group has committed
//! <group>/topic                   {"format":1,"topic":…}  the last consumed topic
//! <group>/made-up                 {"format":1,"topic":…,"next":[…],"whole":…,"since_us":…}
//! <group>/reconciled              {"format":1,"topic":…,"next":[…]}  reconciled offsets
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{commit::Noted, fault::Fault};
use crate::kafka::{KafkaError, StateTopic, of_partition};

/// Format of the values.
pub(super) const FORMAT: u16 = 1;

/// Recorded state of one group.
#[derive(Debug, Clone)]
pub struct Notes {
    state: StateTopic,
    group: String,
}

/// The part of the log that was backfilled from the source instead of being read.
/// Reading can resume after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfilled {
    format: u16,
    /// The topic's id.
    pub topic: Uuid,
    /// Offset of each partition before which no record is missing.
    pub next: Vec<i64>,
    /// Whether the whole source was read, not only the part that was still in the log.
    pub whole: bool,
    /// Time from which events were read, in microseconds since the epoch. `None` means
    /// all events.
    pub since_us: Option<i64>,
}

impl Backfilled {
    #[must_use]
    pub fn new(topic: Uuid, next: Vec<i64>, whole: bool, since_us: Option<i64>) -> Self {
        Self {
            format: FORMAT,
            topic,
            next,
            whole,
            since_us,
        }
    }

    /// Returns the offset at which reading of a partition can resume.
    #[must_use]
    pub fn at(&self, partition: i32) -> Option<i64> {
        of_partition(&self.next, partition).copied()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ConsumedTopic {
    format: u16,
    topic: Uuid,
}

/// Offsets before which unreadable records were reconciled from the source.
#[derive(Debug, Serialize, Deserialize)]
struct Reconciled {
    format: u16,
    topic: Uuid,
    next: Vec<i64>,
}

/// Record of the fact that a group has committed an offset of a partition.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HasCommitted {
    format: u16,
    topic: Uuid,
    /// The last committed offset, if the reader shut down cleanly after committing it.
    ended_at: Option<i64>,
}

/// Only the format number, to detect another format before the rest is parsed.
#[derive(Deserialize)]
struct Formatted {
    format: u16,
}

impl Notes {
    #[must_use]
    pub fn new(state: StateTopic, group: &str) -> Self {
        Self {
            state,
            group: group.to_owned(),
        }
    }

    /// Returns the id of the group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Returns the recorded commit of the group for a partition of the topic. `None` if
    /// no commit is recorded.
    pub async fn committed(&self, partition: i32, topic: Uuid) -> Result<Option<Noted>, Fault> {
        let note: Option<HasCommitted> = self.read(&committed(partition)).await?;
        let note = note.filter(|note| note.topic == topic);
        Ok(note.map(|note| note.ended_at.map_or(Noted::Begun, Noted::EndedAt)))
    }

    /// Records that the group has committed an offset of a partition.
    pub async fn note_committed(
        &self,
        partition: i32,
        topic: Uuid,
        noted: Noted,
    ) -> Result<(), Fault> {
        let key = committed(partition);
        let note = HasCommitted {
            format: FORMAT,
            topic,
            ended_at: match noted {
                Noted::Begun => None,
                Noted::EndedAt(offset) => Some(offset),
            },
        };
        if self.read(&key).await?.as_ref() == Some(&note) {
            return Ok(());
        }
        self.write(&key, &note).await
    }

    /// Returns the id of the topic that the sink last consumed.
    pub async fn topic(&self) -> Result<Option<Uuid>, Fault> {
        let note: Option<ConsumedTopic> = self.read("topic").await?;
        Ok(note.map(|note| note.topic))
    }

    /// Records the id of the topic that the sink consumes.
    pub async fn note_topic(&self, topic: Uuid) -> Result<(), Fault> {
        let note = ConsumedTopic {
            format: FORMAT,
            topic,
        };
        self.write("topic", &note).await
    }

    /// Returns the backfilled part of this incarnation of the topic.
    pub async fn backfilled(&self, topic: Uuid) -> Result<Option<Backfilled>, Fault> {
        let note: Option<Backfilled> = self.read("made-up").await?;
        Ok(note.filter(|note| note.topic == topic))
    }

    /// Records a backfilled part of the topic.
    ///
    /// # Errors
    /// If the broker does not acknowledge the record in time.
    pub async fn note_backfilled(&self, backfilled: &Backfilled) -> Result<(), Fault> {
        if backfilled.whole {
            let note = Reconciled {
                format: FORMAT,
                topic: backfilled.topic,
                next: backfilled.next.clone(),
            };
            self.write("reconciled", &note).await?;
        }
        self.write("made-up", backfilled).await
    }

    /// Returns the offset of each partition before which unreadable records were
    /// reconciled from the source. Empty if there was no reconcile. Unlike
    /// [`Self::backfilled`], these offsets are never deleted, and they do not allow a
    /// sink to resume.
    pub async fn reconciled(&self, topic: Uuid) -> Result<Vec<i64>, Fault> {
        let note: Option<Reconciled> = self.read("reconciled").await?;
        let note = note.filter(|note| note.topic == topic);
        Ok(note.map_or_else(Vec::new, |note| note.next))
    }

    /// Deletes the record of the backfilled part, once the group's own commits are past
    /// it.
    pub async fn forget_backfilled(&self) -> Result<(), Fault> {
        self.state.remove(&self.key("made-up")).await.map_err(kafka)
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.group)
    }

    async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        let key = self.key(name);
        match self.state.get(&key).await.map_err(kafka)? {
            Some(value) => parse(&key, &value).map(Some),
            None => Ok(None),
        }
    }

    async fn write<T: Serialize>(&self, name: &str, note: &T) -> Result<(), Fault> {
        // Numbers, UUIDs and lists always serialise.
        let value = serde_json::to_vec(note).unwrap_or_default();
        let set = self.state.set(&self.key(name), &value).await;
        set.map_err(kafka)
    }
}

fn committed(partition: i32) -> String {
    format!("committed/{partition}")
}

/// Parses a value. An invalid value is an error rather than skipped, because it may
/// record a problem.
pub(super) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    let unreadable = |cause: String| {
        let reason = format!("cannot read {key} in the state topic: {cause}");
        Fault::halt(
            "unknown_format",
            reason,
            "use the fanout version that wrote it",
        )
    };
    let formatted: Formatted =
        serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
    if formatted.format != FORMAT {
        let format = formatted.format;
        return Err(unreadable(format!("format {format} instead of {FORMAT}")));
    }
    serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))
}

pub(super) fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_a_backfilled_part_is_stable() {
        let backfilled = Backfilled::new(Uuid::from_u128(7), vec![3, 0], true, None);
        let text = serde_json::to_string(&backfilled).expect("plain data");
        assert_eq!(
            text,
            r#"{"format":1,"topic":"00000000-0000-0000-0000-000000000007","next":[3,0],"whole":true,"since_us":null}"#
        );
        let read: Backfilled = parse("key", text.as_bytes()).expect("a valid value");
        assert_eq!((read.at(0), read.at(2), read.at(-1)), (Some(3), None, None));
        assert_eq!(read, backfilled);
    }

    #[test]
    fn an_unknown_format_halts() {
        for value in [r#"{"format":2,"topic":"x"}"#, "", "[]"] {
            let Err(Fault::Halt(halt)) = parse::<Backfilled>("key", value.as_bytes()) else {
                panic!("{value} is accepted");
            };
            assert_eq!(halt.code, "unknown_format");
        }
    }
}
