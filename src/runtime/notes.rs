//! What has to be known of a group's past and may not live in its offsets alone:
//! Kafka forgets those together with the topic, when nobody has committed for as
//! long as they are retained, and when somebody deletes them. It is kept in the
//! state topic, one key each, in JSON with a format number.
//!
//! ```text
//! <group>/committed/<partition>   {"format":1,"topic":…,"ended_at":…}  it has committed
//! <group>/topic                   {"format":1,"topic":…}  the topic it was fed from last
//! <group>/made-up                 {"format":1,"topic":…,"next":[…],"whole":…,"since_us":…}
//! <group>/reconciled              {"format":1,"topic":…,"next":[…]}  the source made up for it
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{commit::Noted, fault::Fault};
use crate::kafka::{KafkaError, StateTopic};

/// Format of the values.
pub(super) const FORMAT: u16 = 1;

/// The notes of one group.
#[derive(Debug, Clone)]
pub struct Notes {
    state: StateTopic,
    group: String,
}

/// History that a sink did not read in the log and has had otherwise: reading
/// may go on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeUp {
    format: u16,
    /// The topic's id.
    pub topic: Uuid,
    /// By partition, the offset before which nothing is missing.
    pub next: Vec<i64>,
    /// All of the source was read, not only what the log still had.
    pub whole: bool,
    /// Only events from this time on, in microseconds since the epoch, were
    /// read.
    pub since_us: Option<i64>,
}

impl MadeUp {
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

    /// Where reading of a partition may go on.
    #[must_use]
    pub fn at(&self, partition: i32) -> Option<i64> {
        let place = usize::try_from(partition).ok()?;
        self.next.get(place).copied()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct OfTopic {
    format: u16,
    topic: Uuid,
}

/// Before which offsets the source has made up for what the log cannot give.
#[derive(Debug, Serialize, Deserialize)]
struct Reconciled {
    format: u16,
    topic: Uuid,
    next: Vec<i64>,
}

/// That a group has committed of a partition.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HasCommitted {
    format: u16,
    topic: Uuid,
    /// The last commit, where the reader ended in good order after it.
    ended_at: Option<i64>,
}

/// Only the number, to tell another format before the rest is read.
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

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether the group has committed of this partition of the topic; none
    /// where it is not known to have.
    pub async fn committed(&self, partition: i32, topic: Uuid) -> Result<Option<Noted>, Fault> {
        let note: Option<HasCommitted> = self.read(&committed(partition)).await?;
        let note = note.filter(|note| note.topic == topic);
        Ok(note.map(|note| note.ended_at.map_or(Noted::Begun, Noted::EndedAt)))
    }

    /// Notes that it has.
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

    /// The topic that the sink was fed from last.
    pub async fn topic(&self) -> Result<Option<Uuid>, Fault> {
        let note: Option<OfTopic> = self.read("topic").await?;
        Ok(note.map(|note| note.topic))
    }

    /// Notes it.
    pub async fn note_topic(&self, topic: Uuid) -> Result<(), Fault> {
        let note = OfTopic {
            format: FORMAT,
            topic,
        };
        self.write("topic", &note).await
    }

    /// What was made up for in this incarnation of the topic.
    pub async fn made_up(&self, topic: Uuid) -> Result<Option<MadeUp>, Fault> {
        let note: Option<MadeUp> = self.read("made-up").await?;
        Ok(note.filter(|note| note.topic == topic))
    }

    /// Notes it.
    ///
    /// # Errors
    /// When the broker does not take it in time.
    pub async fn note_made_up(&self, made_up: &MadeUp) -> Result<(), Fault> {
        if made_up.whole {
            let note = Reconciled {
                format: FORMAT,
                topic: made_up.topic,
                next: made_up.next.clone(),
            };
            self.write("reconciled", &note).await?;
        }
        self.write("made-up", made_up).await
    }

    /// By partition, before which offset the source has made up for what the log
    /// cannot give; empty where it never did. Unlike [`Self::made_up`] it stays
    /// true, and allows no sink to go on.
    pub async fn reconciled(&self, topic: Uuid) -> Result<Vec<i64>, Fault> {
        let note: Option<Reconciled> = self.read("reconciled").await?;
        let note = note.filter(|note| note.topic == topic);
        Ok(note.map_or_else(Vec::new, |note| note.next))
    }

    /// Forgets it: the group's own commits are past it.
    pub async fn forget_made_up(&self) -> Result<(), Fault> {
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

/// Reads a value. One that cannot be read is not skipped: it may say that
/// history is broken.
pub(super) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    let unreadable = |why: String| {
        let reason = format!("the state topic's {key} cannot be read: {why}");
        Fault::halt("unknown_format", reason, "use the fanout that wrote it")
    };
    let formatted: Formatted =
        serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
    if formatted.format != FORMAT {
        let found = formatted.format;
        return Err(unreadable(format!("it has format {found}, not {FORMAT}")));
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
    fn what_was_made_up_for_keeps_its_form() {
        let made_up = MadeUp::new(Uuid::from_u128(7), vec![3, 0], true, None);
        let text = serde_json::to_string(&made_up).expect("plain data");
        assert_eq!(
            text,
            r#"{"format":1,"topic":"00000000-0000-0000-0000-000000000007","next":[3,0],"whole":true,"since_us":null}"#
        );
        let read: MadeUp = parse("key", text.as_bytes()).expect("its own form");
        assert_eq!((read.at(0), read.at(2), read.at(-1)), (Some(3), None, None));
        assert_eq!(read, made_up);
    }

    #[test]
    fn a_note_of_another_format_halts() {
        for value in [r#"{"format":2,"topic":"x"}"#, "", "[]"] {
            let Err(Fault::Halt(halt)) = parse::<MadeUp>("key", value.as_bytes()) else {
                panic!("{value} is read");
            };
            assert_eq!(halt.code, "unknown_format");
        }
    }
}
