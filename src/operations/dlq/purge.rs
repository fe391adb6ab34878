//! Forgets what dead letters hold. That there was one, of which sink and for
//! which record, stays as a letter without bytes: it accounts for the record,
//! and without it `verify` would miss it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{DlqError, Letter, PURGED, for_each};
use crate::{
    clients::kafka::{Letter as Outgoing, Log, Producer, delete_before},
    config::Settings,
    crash,
    operations::{
        fence::{consumer, content_topic, events_topic, group},
        steps::Steps,
    },
    progress::{Progress, Unit},
};

/// What a purge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Letters whose bytes are gone.
    pub letters: u64,
    /// Of all that are purged, how many still account for a record.
    pub accounted: u64,
}

/// Purges all letters that there are. Killed midway, again finishes it.
///
/// # Errors
/// When the broker does not do it.
pub async fn purge(settings: &Settings, progress: &dyn Progress) -> Result<Purged, DlqError> {
    let topic = &settings.kafka.dead_letter_topic;
    let log = Log::new(&consumer(settings), &group(settings, "dlq"))?;
    let mut purged = Purged::default();
    if log.partitions(topic).await?.is_none() {
        return Ok(purged);
    }
    // What comes after this is not purged.
    let ends = log.ends(topic).await?;
    let mut lives = Vec::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        lives.extend(identity.map(|identity| (topic, identity.to_string())));
    }
    // One for each record, though a purge that was killed has left two.
    let mut places = BTreeMap::new();
    for_each(settings, |letter| {
        let place = usize::try_from(letter.id.partition).unwrap_or(usize::MAX);
        if ends.get(place).is_none_or(|end| letter.id.offset >= *end) {
            return;
        }
        purged.letters += u64::from(!letter.purged);
        // A letter of another life accounts for nothing any more.
        let is_of =
            |(topic, life): &(String, String)| *topic == letter.topic && *life == letter.generation;
        if lives.iter().any(is_of) {
            let place = (letter.sink.clone(), letter.topic.clone());
            let place = (place, letter.partition, letter.offset);
            let kept = Letter {
                value: None,
                ..letter
            };
            places.insert(place, kept);
        }
    })
    .await?;
    let steps = Steps::new(progress, "dlq");
    let producer = Producer::new(&settings.kafka.brokers, topic)?;
    let total = places.len() as u64;
    for place in places.values() {
        keep(&producer, place).await?;
        crash::point("dlq", "purging");
        purged.accounted += 1;
        steps.advanced(purged.accounted, Some(total), Unit::Records);
    }
    let ends: Vec<(i32, i64)> = (0..).zip(ends).collect();
    crash::point("dlq", "purged");
    delete_before(&settings.kafka.brokers, topic, &ends).await?;
    Ok(purged)
}

/// Writes what stays of a letter.
async fn keep(producer: &Producer, letter: &Letter) -> Result<(), DlqError> {
    let headers = [
        ("fanout-format", "1".to_owned()),
        (PURGED, jiff::Timestamp::now().to_string()),
        ("fanout-sink", letter.sink.clone()),
        ("fanout-code", letter.code.clone()),
        ("fanout-topic", letter.topic.clone()),
        ("fanout-partition", letter.partition.to_string()),
        ("fanout-offset", letter.offset.to_string()),
        ("fanout-generation", letter.generation.clone()),
        ("fanout-timestamp", letter.timestamp_ms.to_string()),
        ("fanout-time", letter.time.clone()),
    ];
    let outgoing = Outgoing {
        key: letter.key.as_deref(),
        value: None,
        headers: &headers,
    };
    Ok(producer.send(outgoing).await?)
}
