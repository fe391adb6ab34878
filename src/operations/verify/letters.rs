//! Dead letters as excuses: a difference that one explains is listed, not
//! counted.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    clients::kafka::KafkaError,
    config::Settings,
    operations::dlq::{self, Letter},
};

/// The dead letters of the present life of both topics.
#[derive(Debug, Default)]
pub struct Letters {
    /// Records of events.
    records: HashSet<(String, i32, i64)>,
    /// Sink and event → by partition, the offset of its latest letter. An event
    /// has one partition; what else has its key stands anywhere.
    events: HashMap<(String, i64), HashMap<i32, i64>>,
    /// Records of content, by partition and offset, with the content.
    contents: BTreeMap<(i32, i64), Uuid>,
}

impl Letters {
    /// Reads them. `lives` are the topics of events and of content, each with
    /// its generation: letters of an earlier life excuse nothing. Without a
    /// generation to go by all are of this one.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn read(
        settings: &Settings,
        lives: &[(String, Option<String>)],
    ) -> Result<Self, KafkaError> {
        let mut letters = Self::default();
        dlq::for_each(settings, |letter| {
            let of = |(topic, generation): &(String, Option<String>)| {
                let alive = generation
                    .as_ref()
                    .is_none_or(|it| *it == letter.generation);
                letter.topic == *topic && alive
            };
            match lives.iter().position(of) {
                Some(0) => letters.add(letter),
                Some(_) => letters.add_content(&letter),
                None => {}
            }
        })
        .await?;
        Ok(letters)
    }

    fn add_content(&mut self, letter: &Letter) {
        if let Some(id) = letter.key.as_deref().and_then(content_id) {
            let place = (letter.partition, letter.offset);
            self.contents.insert(place, id);
        }
    }

    /// The records of content that were rejected, with what they are of.
    pub fn contents(&self) -> &BTreeMap<(i32, i64), Uuid> {
        &self.contents
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

    /// The events of which any of these sinks rejected a change.
    #[must_use]
    pub fn events(&self, sinks: &[&str]) -> HashSet<i64> {
        let of_sinks = self.events.keys();
        let of_sinks = of_sinks.filter(|(name, _)| sinks.contains(&name.as_str()));
        of_sinks.map(|(_, id)| *id).collect()
    }
}

/// The `id` of a key, with or without a schema around it.
fn id(key: &[u8]) -> Option<Json> {
    let key: Json = serde_json::from_slice(key).ok()?;
    let id = key.get("id").or_else(|| key.get("payload")?.get("id"));
    id.cloned()
}

fn event_id(key: &[u8]) -> Option<i64> {
    id(key)?.as_i64()
}

fn content_id(key: &[u8]) -> Option<Uuid> {
    Uuid::parse_str(id(key)?.as_str()?).ok()
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
        assert_eq!(letters.events(&["clickhouse", "redis"]), [7].into());
        assert!(letters.events(&["http"]).is_empty(), "it has no key");
        letters.add_content(&letter(
            "content",
            4,
            &format!("{{\"id\":\"{}\"}}", Uuid::nil()),
        ));
        letters.add_content(&letter("content", 5, r#"{"id":7}"#));
        assert_eq!(letters.contents(), &[((1, 4), Uuid::nil())].into());
    }
}
