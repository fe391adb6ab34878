//! The latest records of a topic.

use serde_json::json;

use super::{error::PeekError, latest::Latest};
use crate::{
    config::Settings,
    connections::Connections,
    kafka::{Bounds, KafkaError, Log, Seen, Stretch},
    sinks::inspect::Item,
    source::tables::{events_topic, reader_group},
    time::timestamp::{MICROS_PER_MILLI, Rfc3339},
};

/// Offsets that are read in addition to two per record: the marker that ends a
/// transaction takes an offset but is not a record.
const MARKERS: i64 = 16;

/// Reads the records of a topic.
#[derive(Debug)]
pub(super) struct Records {
    topic: String,
    log: Log,
    /// Offset of each partition up to which records were returned. Empty before
    /// the first call.
    ends: Vec<i64>,
}

/// Returns a shell command that shows the latest `count` records.
pub(super) fn equivalent(settings: &Settings, topic: Option<&str>, count: usize) -> String {
    let events = events_topic(settings);
    let topic = topic.unwrap_or(&events);
    format!(
        "kcat -b \"$FANOUT_KAFKA_BROKERS\" -C -t {topic} -o -{count} -e -X isolation.level=read_committed"
    )
}

impl Records {
    /// Connects. Reads the events topic if `topic` is `None`.
    pub(super) fn open(
        connections: &Connections,
        topic: Option<String>,
    ) -> Result<Self, KafkaError> {
        let settings = connections.settings();
        Ok(Self {
            topic: topic.unwrap_or_else(|| events_topic(settings)),
            log: connections.kafka.log(&reader_group(settings, "peek"))?,
            ends: Vec::new(),
        })
    }

    /// Returns the latest `count` records, oldest first; in later calls, the
    /// records that are new since the previous call.
    pub(super) async fn latest(
        &mut self,
        connections: &Connections,
        count: usize,
    ) -> Result<Vec<Item>, PeekError> {
        let topic = self.topic.as_str();
        if self.log.partitions(topic).await?.is_none() {
            return Err(missing_topic(connections, topic).await?);
        }
        let bounds = self.log.bounds(topic).await?;
        let is_first = self.ends.is_empty();
        let back = i64::try_from(count).unwrap_or(i64::MAX / 4) * 2 + MARKERS;
        let stretch = |(place, bounds): (usize, &Bounds)| Stretch {
            partition: i32::try_from(place).unwrap_or(i32::MAX),
            from: match self.ends.get(place) {
                Some(end) => *end,
                None => bounds.start.max(bounds.end.saturating_sub(back)),
            },
            until: Some(bounds.end),
        };
        let stretches: Vec<Stretch> = bounds.iter().enumerate().map(stretch).collect();
        let reader = reader_group(connections.settings(), "peek");
        let mut scan = connections.kafka.scan(&reader, topic, &stretches)?;
        self.ends = bounds.iter().map(|bounds| bounds.end).collect();
        let mut seen = Latest::default();
        while let Some(record) = scan.next().await? {
            seen.add(record);
            if is_first {
                seen.keep(count);
            } else if seen.is_full() {
                // The next call returns the rest.
                self.ends = seen.next_after(&stretches);
                break;
            }
        }
        Ok(seen.records().map(|seen| item(topic, seen)).collect())
    }
}

/// Returns the error for a topic that does not exist. The events topic has yet
/// to be created; any other name is a mistake.
async fn missing_topic(connections: &Connections, topic: &str) -> Result<PeekError, KafkaError> {
    let name = topic.to_owned();
    if topic == events_topic(connections.settings()) {
        return Ok(PeekError::NoTopic { topic: name });
    }
    let kafka = connections.kafka.clone();
    let listed = tokio::task::spawn_blocking(move || kafka.list_topics_and_groups()).await;
    let (topics, _) = listed.unwrap_or(Err(KafkaError::Canceled))?;
    let is_internal = |topic: &String| topic.starts_with("__");
    Ok(PeekError::UnknownTopic {
        name,
        known: topics
            .into_iter()
            .filter(|topic| !is_internal(topic))
            .collect(),
    })
}

fn item(topic: &str, seen: &Seen) -> Item {
    let text = |bytes: &Option<Vec<u8>>| {
        let text = bytes.as_deref().map(String::from_utf8_lossy);
        text.map(std::borrow::Cow::into_owned)
    };
    let (key, value) = (text(&seen.key), text(&seen.value));
    let time = Rfc3339(seen.timestamp_ms * MICROS_PER_MILLI).to_string();
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "null".to_owned());
    Item {
        head: format!("{topic}/{}@{} {time}", seen.partition, seen.offset),
        body: format!("{} {}", shown(&key), shown(&value)),
        document: json!({
            "topic": topic,
            "partition": seen.partition,
            "offset": seen.offset,
            "time": time,
            "key": key,
            "value": value,
        }),
    }
}
