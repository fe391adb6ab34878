//! Dead letters as excuses: a difference that one explains is listed, not
//! counted. There may be more of them than fit into memory.

use std::io;

use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    connections::Connections,
    runtime::DeadLetter,
    runtime::letter_reader,
    sink_kind::SinkKind,
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key, number, part},
    },
};

use super::error::VerifyError;

/// Sink, partition and offset of a record.
const RECORD: usize = 13;

/// Sink, event, and partition and offset of a record of it.
const EVENT: usize = 21;

/// Partition and offset of a record of content, and the content.
const CONTENT: usize = 28;

/// The dead letters of the present life of both topics. A key has the number
/// of its sink.
#[derive(Debug)]
pub struct Letters {
    /// Records of events.
    records: Sorted<RECORD>,
    /// An event has one partition; what else has its key stands anywhere.
    events: Sorted<EVENT>,
    contents: Sorted<CONTENT>,
}

/// The letters as they are read.
struct Reading {
    records: Sorting<RECORD>,
    events: Sorting<EVENT>,
    contents: Sorting<CONTENT>,
}

impl Letters {
    /// Reads them. `lives` are the topics of events and of content, each with
    /// its generation: letters of an earlier life excuse nothing. Without a
    /// generation to go by all are of this one.
    ///
    /// # Errors
    /// When the broker does not answer, or the disk does not take them.
    pub async fn read(
        connections: &Connections,
        scratch: &Scratch,
        lives: &[(String, Option<String>)],
    ) -> Result<Self, VerifyError> {
        let mut reading = Reading::new(scratch);
        let mut letters = letter_reader::DeadLetterReader::start(connections).await?;
        while let Some(letter) = letters.next().await? {
            let of = |(topic, generation): &(String, Option<String>)| {
                let alive = generation
                    .as_ref()
                    .is_none_or(|it| *it == letter.generation);
                letter.topic == *topic && alive
            };
            match lives.iter().position(of) {
                Some(0) => reading.add(&letter)?,
                Some(_) => reading.add_content(&letter)?,
                None => {}
            }
        }
        Ok(reading.finish()?)
    }

    /// Whether the sink rejected this record.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn has(&self, sink: SinkKind, partition: i32, offset: i64) -> io::Result<bool> {
        let record = key(&[&number_of(sink), &partition.field(), &offset.field()]);
        self.records.contains(&record)
    }

    /// Whether the sink rejected a later change of the event than the one at
    /// this position; any, where there is none.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn explain(
        &self,
        sink: SinkKind,
        event: i64,
        stored: Option<(i32, i64)>,
    ) -> io::Result<bool> {
        let (sink, event) = (number_of(sink), event.field());
        let found = match stored {
            None => {
                let prefix: [u8; 9] = key(&[&sink, &event]);
                self.events.first_with(&prefix, &key(&[&prefix]))?
            }
            Some((partition, stored)) => {
                let prefix: [u8; 13] = key(&[&sink, &event, &partition.field()]);
                let later = stored.saturating_add(1).field();
                self.events.first_with(&prefix, &key(&[&prefix, &later]))?
            }
        };
        Ok(found.is_some())
    }

    /// The events of which any of these sinks rejected a change, from this one
    /// on, each once and at most so many.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn events(&self, sinks: &[SinkKind], from: i64, limit: usize) -> io::Result<Vec<i64>> {
        let mut events = Vec::new();
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| events.len() < limit) {
            let event = self.first_event(sinks, from)?;
            events.extend(event);
            next = event.and_then(|event| event.checked_add(1));
        }
        Ok(events)
    }

    /// Whether any of these sinks rejected a change of the event.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn has_event(&self, sinks: &[SinkKind], event: i64) -> io::Result<bool> {
        Ok(self.first_event(sinks, event)? == Some(event))
    }

    fn first_event(&self, sinks: &[SinkKind], from: i64) -> io::Result<Option<i64>> {
        let mut first: Option<i64> = None;
        for sink in sinks.iter().map(|sink| number_of(*sink)) {
            let key = key(&[&sink, &from.field()]);
            if let Some(found) = self.events.first_with(&sink, &key)? {
                let event = number(part(&found, 1));
                first = Some(first.map_or(event, |first| first.min(event)));
            }
        }
        Ok(first)
    }

    /// The content whose record at this place was rejected.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn content(&self, partition: i32, offset: i64) -> io::Result<Option<Uuid>> {
        let record: [u8; 12] = key(&[&partition.field(), &offset.field()]);
        let found = self.contents.first_with(&record, &key(&[&record]))?;
        Ok(found.map(|found| Uuid::from_bytes(part(&found, 12))))
    }

    /// The offset of the first record of content that was rejected in this
    /// partition.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn first_content(&self, partition: i32) -> io::Result<Option<i64>> {
        let partition = partition.field();
        let found = self.contents.first_with(&partition, &key(&[&partition]))?;
        Ok(found.map(|found| number(part(&found, 4))))
    }
}

impl Reading {
    fn new(scratch: &Scratch) -> Self {
        Self {
            records: Sorting::new(scratch),
            events: Sorting::new(scratch),
            contents: Sorting::new(scratch),
        }
    }

    fn add(&mut self, letter: &DeadLetter) -> io::Result<()> {
        let Ok(sink) = letter.sink.parse::<SinkKind>() else {
            return Ok(());
        };
        let sink = number_of(sink);
        let (partition, offset) = (letter.partition.field(), letter.offset.field());
        self.records.add(key(&[&sink, &partition, &offset]))?;
        match letter.key.as_deref().and_then(event_id) {
            Some(id) => self
                .events
                .add(key(&[&sink, &id.field(), &partition, &offset])),
            None => Ok(()),
        }
    }

    fn add_content(&mut self, letter: &DeadLetter) -> io::Result<()> {
        let (partition, offset) = (letter.partition.field(), letter.offset.field());
        match letter.key.as_deref().and_then(content_id) {
            Some(id) => self
                .contents
                .add(key(&[&partition, &offset, id.as_bytes()])),
            None => Ok(()),
        }
    }

    fn finish(self) -> io::Result<Letters> {
        Ok(Letters {
            records: self.records.finish()?,
            events: self.events.finish()?,
            contents: self.contents.finish()?,
        })
    }
}

fn number_of(sink: SinkKind) -> [u8; 1] {
    [sink as u8]
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
    use crate::{runtime::DeadLetterId, spill::bucket::scratch};

    fn letter(sink: &str, offset: i64, key: &str) -> DeadLetter {
        DeadLetter {
            id: DeadLetterId {
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
            value_bytes: None,
            truncated: false,
        }
    }

    fn letters(all: &[DeadLetter]) -> Letters {
        let (_home, scratch) = scratch();
        let mut reading = Reading::new(&scratch);
        for letter in all {
            reading.add(letter).expect("space");
        }
        reading.finish().expect("space")
    }

    #[test]
    fn only_a_later_letter_of_the_same_sink_explains() {
        let elsewhere = DeadLetter {
            partition: 2,
            ..letter("clickhouse", 90, r#"{"id":7}"#)
        };
        let letters = letters(&[
            letter("clickhouse", 20, r#"{"id":7}"#),
            letter("clickhouse", 10, r#"{"schema":{},"payload":{"id":7}}"#),
            letter("http", 30, "no key"),
            letter("another", 40, r#"{"id":7}"#),
            elsewhere,
        ]);
        let explains = |sink, event, stored| letters.explain(sink, event, stored).expect("read");
        assert!(explains(SinkKind::ClickHouse, 7, Some((1, 19))));
        assert!(explains(SinkKind::ClickHouse, 7, None));
        assert!(!explains(SinkKind::ClickHouse, 7, Some((1, 20))));
        assert!(!explains(SinkKind::ClickHouse, 7, Some((1, i64::MAX))));
        assert!(explains(SinkKind::ClickHouse, 7, Some((2, 5))));
        assert!(!explains(SinkKind::ClickHouse, 7, Some((2, 90))));
        assert!(!explains(SinkKind::ClickHouse, 7, Some((0, 5))));
        assert!(!explains(SinkKind::Redis, 7, None));
        assert!(!explains(SinkKind::Http, 7, None));
        let has = |sink, offset| letters.has(sink, 1, offset).expect("read");
        assert!(has(SinkKind::Http, 30) && !has(SinkKind::ClickHouse, 30));
        assert!(!SinkKind::ALL.into_iter().any(|sink| has(sink, 40)));
    }

    #[test]
    fn the_events_of_some_sinks_come_in_pieces_and_each_once() {
        let all: Vec<DeadLetter> = [-3, 9, 7, 7, i64::MAX]
            .iter()
            .enumerate()
            .map(|(offset, id)| {
                let offset = i64::try_from(offset).expect("few");
                letter("redis", offset, &format!(r#"{{"id":{id}}}"#))
            })
            .chain([5, 7].map(|id| letter("clickhouse", 9, &format!(r#"{{"id":{id}}}"#))))
            .chain([letter("http", 9, r#"{"id":8}"#)])
            .collect();
        let letters = letters(&all);
        let events = |sinks: &[SinkKind], from, limit| {
            let events = letters.events(sinks, from, limit);
            events.expect("read")
        };
        assert_eq!(events(&[SinkKind::Redis], i64::MIN, 2), [-3, 7]);
        assert_eq!(events(&[SinkKind::Redis], 8, 9), [9, i64::MAX]);
        let both = [SinkKind::Redis, SinkKind::ClickHouse];
        assert_eq!(events(&both, i64::MIN, 3), [-3, 5, 7]);
        assert_eq!(events(&both, 6, 9), [7, 9, i64::MAX]);
        assert!(events(&[], i64::MIN, 9).is_empty());
        let has = |event| letters.has_event(&both, event).expect("read");
        assert!(has(5) && has(7) && !has(6) && !has(8));
    }

    #[test]
    fn a_record_of_content_is_found_by_its_place() {
        let (_home, scratch) = scratch();
        let mut reading = Reading::new(&scratch);
        let of = |id| format!(r#"{{"id":"{}"}}"#, Uuid::from_u128(id));
        let all = [
            letter("content", 9, &of(1)),
            letter("content", 4, &of(2)),
            letter("content", 2, r#"{"id":7}"#),
        ];
        for letter in &all {
            reading.add_content(letter).expect("space");
        }
        let letters = reading.finish().expect("space");
        let content = |partition, offset| letters.content(partition, offset).expect("read");
        assert_eq!(content(1, 9), Some(Uuid::from_u128(1)));
        assert_eq!(content(1, 4), Some(Uuid::from_u128(2)));
        assert_eq!(
            (content(1, 2), content(1, 5), content(0, 4)),
            (None, None, None)
        );
        let first = |partition| letters.first_content(partition).expect("read");
        assert_eq!((first(0), first(1), first(2)), (None, Some(4), None));
    }
}
