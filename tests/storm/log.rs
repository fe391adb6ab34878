//! The log of events, read completely and decoded by an independent
//! implementation of the rules, because the product's own decoding is no
//! evidence.

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
pub const DEAD_LETTERS: &str = "fanout.dlq";
/// Number of partitions of the events topic.
pub const PARTITIONS: i32 = 3;

/// Timeout of one request to the broker.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Timeout for the next record while the end of the log is not reached.
const NEXT_RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// The meaning of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Upsert(Event),
    Delete(i64),
    /// The record changes no row: a tombstone, a heartbeat, a message.
    Ignored,
    /// The record cannot be decoded.
    Poison,
}

/// An event as written in one record.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: i64,
    pub content: Option<String>,
    /// The event time, in microseconds since the epoch.
    pub at_us: i64,
    /// Whether the record is the event's insert.
    pub is_insert: bool,
    pub row: Json,
}

/// A record of the events topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub offset: i64,
    /// Append time at the broker, in microseconds since the epoch.
    pub time_us: i64,
    pub change: Change,
}

/// All records, by partition.
pub type Log = Vec<Vec<Line>>;

/// A dead letter: its sink, and its record's partition and offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub offset: i64,
    pub sink: String,
    pub record: (usize, i64),
}

/// A client of the broker.
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

    /// Returns the end offset of each partition for a read-committed reader.
    /// Fails if the topic does not exist.
    pub fn end_offsets(&self, topic: &str, partitions: i32) -> Result<Vec<i64>, KafkaError> {
        let end = |partition| {
            let bounds = self.consumer.fetch_watermarks(topic, partition, TIMEOUT);
            bounds.map(|(_, end)| end)
        };
        (0..partitions).map(end).collect()
    }

    /// Returns the offsets that a group has committed in the events topic, or
    /// `None` for a partition without a commit.
    pub fn committed(&self, group: &str) -> Result<Vec<Option<i64>>, KafkaError> {
        let consumer = consumer(&self.brokers, group);
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(EVENTS, partition);
        }
        let committed = consumer.committed_offsets(list, TIMEOUT)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let elements = committed.elements();
        Ok(elements
            .iter()
            .map(|element| offset(element.offset()))
            .collect())
    }

    /// Returns all records of the events topic.
    pub fn log(&self) -> Log {
        let line = |message: &BorrowedMessage<'_>| Line {
            offset: message.offset(),
            time_us: message.timestamp().to_millis().expect("a time") * 1000,
            change: change(message.key(), message.payload()),
        };
        self.read(EVENTS, PARTITIONS, line)
    }

    /// Returns all dead letters.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.read(DEAD_LETTERS, 1, dead_letter).concat()
    }

    /// Reads all records of a topic, by partition.
    fn read<T>(
        &self,
        topic: &str,
        partitions: i32,
        convert: impl Fn(&BorrowedMessage<'_>) -> T,
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
            match consumer.poll(NEXT_RECORD_TIMEOUT) {
                Some(Ok(message)) => {
                    let partition = usize::try_from(message.partition()).expect("a number");
                    read[partition].push(convert(&message));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => panic!("{topic}: the end was not reached"),
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
        // Reconnects soon after the broker has restarted.
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .expect("a consumer")
}

fn dead_letter(message: &BorrowedMessage<'_>) -> DeadLetter {
    let headers = message.headers().expect("a dead letter has headers");
    let text = |key: &str| {
        let found = headers.iter().find(|header| header.key == key);
        let value = found.and_then(|header| header.value).expect("a value");
        String::from_utf8(value.to_vec()).expect("text")
    };
    let partition = text("fanout-partition").parse().expect("a number");
    let offset = text("fanout-offset").parse().expect("a number");
    DeadLetter {
        offset: message.offset(),
        sink: text("fanout-sink"),
        record: (partition, offset),
    }
}

/// Decodes a record's key and value.
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
    // Infinity and years beyond four digits are not valid times.
    let time = jiff::Timestamp::from_str(row["event_ts"].as_str()?).ok()?;
    (row["id"] == id).then(|| Event {
        id,
        content: row["content_id"].as_str().map(str::to_owned),
        at_us: time.as_microsecond(),
        is_insert: op == "c",
        row: row.clone(),
    })
}

/// A test of each rule.
pub mod tests {
    use serde_json::json;

    use super::{Change, Json, change};

    pub fn each_record_is_decoded_by_the_rules() {
        let row = |time: &str| {
            json!({
                "before": null, "op": "c", "source": {"table": "engagement_events"},
                "after": {"id": 7, "content_id": null, "event_ts": time},
            })
        };
        let decode = |value: &Json| change(Some(b"{\"id\":7}"), Some(value.to_string().as_bytes()));
        let good = row("1970-01-01T00:00:01.000002Z");
        match decode(&good) {
            Change::Upsert(event) => assert_eq!((event.id, event.at_us), (7, 1_000_002)),
            other => panic!("{other:?}"),
        }
        assert_eq!(decode(&row("infinity")), Change::Poison);
        assert_eq!(decode(&row("20000-01-01T00:00:00Z")), Change::Poison);
        let mut other = good.clone();
        other["source"]["table"] = json!("content");
        assert_eq!(decode(&other), Change::Poison);
        let mut delete = good.clone();
        delete["op"] = json!("d");
        assert_eq!(decode(&delete), Change::Delete(7));
        delete["op"] = json!("?");
        assert_eq!(decode(&delete), Change::Poison);
        assert_eq!(change(None, None), Change::Ignored);
        assert_eq!(change(None, Some(b"\xff")), Change::Poison);
        assert_eq!(change(None, Some(b"[]")), Change::Poison);
    }
}
