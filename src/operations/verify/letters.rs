//! Dead letters as excuses: a difference that one explains is listed, not
//! counted.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use crate::{
    clients::kafka::KafkaError,
    config::Settings,
    operations::dlq::{self, Letter},
};

/// The dead letters of one life of the events' topic.
#[derive(Debug, Default)]
pub struct Letters {
    records: HashSet<(String, i32, i64)>,
    /// Sink and event → by partition, the offset of its latest letter. An event
    /// has one partition; what else has its key stands anywhere.
    events: HashMap<(String, i64), HashMap<i32, i64>>,
}

impl Letters {
    /// Reads them. Letters of an earlier life of the topic excuse nothing;
    /// without a `generation` to go by all are of this one.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn read(
        settings: &Settings,
        topic: &str,
        generation: Option<&str>,
    ) -> Result<Self, KafkaError> {
        let mut letters = Self::default();
        dlq::for_each(settings, |letter| {
            let alive = generation.is_none_or(|generation| generation == letter.generation);
            if letter.topic == topic && alive {
                letters.add(letter);
            }
        })
        .await?;
        Ok(letters)
    }

    fn add(&mut self, letter: Letter) {
        if let Some(id) = letter.key.as_deref().and_then(event_id) {
            let event = self.events.entry((letter.sink.clone(), id)).or_default();
            let latest = event.entry(letter.partition).or_insert(letter.offset);
            *latest = letter.offset.max(*latest);
        }
        self.records
            .insert((letter.sink, letter.partition, letter.offset));
    }

    /// Whether the sink rejected this record.
    #[must_use]
    pub fn has(&self, sink: &str, partition: i32, offset: i64) -> bool {
        self.records.contains(&(sink.to_owned(), partition, offset))
    }

    /// Whether the sink rejected a later change of the event than the one at
    /// this position; any, where there is none.
    #[must_use]
    pub fn explain(&self, sink: &str, event: i64, stored: Option<(i32, i64)>) -> bool {
        let letters = self.events.get(&(sink.to_owned(), event));
        match (letters, stored) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(letters), Some((partition, stored))) => letters
                .get(&partition)
                .is_some_and(|offset| *offset > stored),
        }
    }

    /// The events whose changes the sink rejected.
    #[must_use]
    pub fn events(&self, sink: &str) -> Vec<i64> {
        let of_sink = self.events.keys().filter(|(name, _)| name == sink);
        of_sink.map(|(_, id)| *id).collect()
    }
}

/// The `id` of a key, with or without a schema around it.
fn event_id(key: &[u8]) -> Option<i64> {
    let key: Json = serde_json::from_slice(key).ok()?;
    let id = key.get("id").or_else(|| key.get("payload")?.get("id"));
    id?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::dlq::LetterId;

    fn letter(sink: &str, offset: i64, key: &str) -> Letter {
        Letter {
            id: LetterId {
                partition: 0,
                offset: 0,
            },
            sink: sink.to_owned(),
            code: String::new(),
            error: String::new(),
            topic: String::new(),
            partition: 1,
            offset,
            generation: String::new(),
            time: String::new(),
            timestamp_ms: 0,
            purged: false,
            key: Some(key.as_bytes().to_vec()),
            value: None,
        }
    }

    #[test]
    fn only_a_later_letter_of_the_same_sink_explains() {
        let mut letters = Letters::default();
        letters.add(letter("clickhouse", 20, r#"{"id":7}"#));
        letters.add(letter(
            "clickhouse",
            10,
            r#"{"schema":{},"payload":{"id":7}}"#,
        ));
        letters.add(letter("http", 30, "no key"));
        let elsewhere = Letter {
            partition: 2,
            ..letter("clickhouse", 90, r#"{"id":7}"#)
        };
        letters.add(elsewhere);
        assert!(letters.explain("clickhouse", 7, Some((1, 19))));
        assert!(letters.explain("clickhouse", 7, None));
        assert!(!letters.explain("clickhouse", 7, Some((1, 20))));
        assert!(letters.explain("clickhouse", 7, Some((2, 5))));
        assert!(!letters.explain("clickhouse", 7, Some((2, 90))));
        assert!(!letters.explain("clickhouse", 7, Some((0, 5))));
        assert!(!letters.explain("redis", 7, None));
        assert!(letters.has("http", 1, 30) && !letters.has("clickhouse", 1, 30));
        assert_eq!(letters.events("clickhouse"), [7]);
    }
}
