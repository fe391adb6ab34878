//! The log of events, read whole and understood by rules written down anew:
//! what the product makes of a record is no evidence.

use std::{str::FromStr as _, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};
use serde_json::Value as Json;

/// The topic of the events, in three partitions.
pub const EVENTS: &str = "cdc.public.engagement_events";
/// The topic of dead letters.
pub const LETTERS: &str = "fanout.dlq";
/// Partitions of the events' topic.
pub const PARTITIONS: i32 = 3;

/// How long one question to the broker may take.
const ANSWER: Duration = Duration::from_secs(4);
/// How long the next record of a log that has one may take.
const NEXT: Duration = Duration::from_secs(60);

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Upsert(Event),
    Delete(i64),
    /// It changes no row: a tombstone, a heartbeat, a message.
    Ignored,
    /// Nobody can say what it means.
    Poison,
}

/// An event as one record has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: i64,
    pub content: Option<String>,
    /// Microseconds since the epoch.
    pub at_us: i64,
    /// Whether the record is its insert.
    pub is_insert: bool,
    pub row: Json,
}

/// A record of the events' topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub offset: i64,
    /// When the broker appended it, microseconds since the epoch.
    pub time_us: i64,
    pub change: Change,
}

/// All records, by partition.
pub type Log = Vec<Vec<Line>>;

/// A dead letter: of which sink, and where its record was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub offset: i64,
    pub sink: String,
    pub record: (usize, i64),
}

/// Asks a broker.
pub struct Broker {
    brokers: String,
    consumer: BaseConsumer,
}

impl Broker {
    pub fn at(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            consumer: consumer(brokers, "storm-looks"),
        }
    }

    /// Where a read-committed reader finds the end of each partition; zero
    /// where the topic is not there yet.
    pub fn ends(&self, topic: &str, partitions: i32) -> Result<Vec<i64>, KafkaError> {
        let end = |partition| {
            let bounds = self.consumer.fetch_watermarks(topic, partition, ANSWER);
            bounds.map(|(_, end)| end)
        };
        (0..partitions).map(end).collect()
    }

    /// What a group has committed of the events; none where nothing is.
    pub fn committed(&self, group: &str) -> Result<Vec<Option<i64>>, KafkaError> {
        let consumer = consumer(&self.brokers, group);
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(EVENTS, partition);
        }
        let committed = consumer.committed_offsets(list, ANSWER)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let elements = committed.elements();
        Ok(elements.iter().map(|one| offset(one.offset())).collect())
    }

    /// All the events there are.
    pub fn log(&self) -> Log {
        let line = |message: &BorrowedMessage<'_>| Line {
            offset: message.offset(),
            time_us: message.timestamp().to_millis().expect("a time") * 1000,
            change: change(message.key(), message.payload()),
        };
        self.read(EVENTS, PARTITIONS, line)
    }

    /// All dead letters.
    pub fn letters(&self) -> Vec<Letter> {
        self.read(LETTERS, 1, letter).concat()
    }

    /// All records of a topic, by partition.
    fn read<T>(
        &self,
        topic: &str,
        partitions: i32,
        one: impl Fn(&BorrowedMessage<'_>) -> T,
    ) -> Vec<Vec<T>> {
        let consumer = consumer(&self.brokers, "storm-reads");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .expect("a partition");
        }
        consumer.assign(&list).expect("an assignment");
        let mut read: Vec<Vec<T>> = (0..partitions).map(|_| Vec::new()).collect();
        let mut unread = partitions;
        while unread > 0 {
            match consumer.poll(NEXT) {
                Some(Ok(message)) => {
                    let partition = usize::try_from(message.partition()).expect("a number");
                    read[partition].push(one(&message));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => panic!("{topic}: its end did not come"),
            }
        }
        read
    }
}

fn consumer(brokers: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        // A broker that comes back is found at once.
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .expect("a consumer")
}

fn letter(message: &BorrowedMessage<'_>) -> Letter {
    let headers = message.headers().expect("a letter has headers");
    let text = |key: &str| {
        let found = headers.iter().find(|header| header.key == key);
        let value = found.and_then(|header| header.value).expect("a value");
        String::from_utf8(value.to_vec()).expect("text")
    };
    let partition = text("fanout-partition").parse().expect("a number");
    let offset = text("fanout-offset").parse().expect("a number");
    Letter {
        offset: message.offset(),
        sink: text("fanout-sink"),
        record: (partition, offset),
    }
}

/// What a record's bytes say.
pub fn change(key: Option<&[u8]>, value: Option<&[u8]>) -> Change {
    let Some(value) = value else {
        return Change::Ignored;
    };
    let Ok(value) = serde_json::from_slice::<Json>(value) else {
        return Change::Poison;
    };
    if !value.is_object() {
        return Change::Poison;
    }
    let id = key
        .and_then(|key| serde_json::from_slice::<Json>(key).ok())
        .and_then(|key| key["id"].as_i64());
    let is_event = value["source"]["table"] == "engagement_events";
    match (value["op"].as_str(), id) {
        (Some("m"), _) => Change::Ignored,
        (Some(op @ ("c" | "u" | "r")), Some(id)) if is_event => {
            event(op, id, &value["after"]).map_or(Change::Poison, Change::Upsert)
        }
        (Some("d"), Some(id)) if is_event => Change::Delete(id),
        _ => Change::Poison,
    }
}

fn event(op: &str, id: i64, row: &Json) -> Option<Event> {
    // A year beyond four digits and infinity are no times of this calendar.
    let time = jiff::Timestamp::from_str(row["event_ts"].as_str()?).ok()?;
    (row["id"] == id).then(|| Event {
        id,
        content: row["content_id"].as_str().map(str::to_owned),
        at_us: time.as_microsecond(),
        is_insert: op == "c",
        row: row.clone(),
    })
}

/// The rules, each once.
pub mod tests {
    use serde_json::json;

    use super::{Change, Json, change};

    pub fn each_record_is_what_the_rules_say() {
        let row = |time: &str| {
            json!({
                "before": null, "op": "c", "source": {"table": "engagement_events"},
                "after": {"id": 7, "content_id": null, "event_ts": time},
            })
        };
        let of = |value: &Json| change(Some(b"{\"id\":7}"), Some(value.to_string().as_bytes()));
        let good = row("1970-01-01T00:00:01.000002Z");
        match of(&good) {
            Change::Upsert(event) => assert_eq!((event.id, event.at_us), (7, 1_000_002)),
            other => panic!("{other:?}"),
        }
        assert_eq!(of(&row("infinity")), Change::Poison);
        assert_eq!(of(&row("20000-01-01T00:00:00Z")), Change::Poison);
        let mut other = good.clone();
        other["source"]["table"] = json!("content");
        assert_eq!(of(&other), Change::Poison);
        let mut delete = good.clone();
        delete["op"] = json!("d");
        assert_eq!(of(&delete), Change::Delete(7));
        delete["op"] = json!("?");
        assert_eq!(of(&delete), Change::Poison);
        assert_eq!(change(None, None), Change::Ignored);
        assert_eq!(change(None, Some(b"\xff")), Change::Poison);
        assert_eq!(change(None, Some(b"[]")), Change::Poison);
    }
}
