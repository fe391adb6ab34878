//! Erases the payload of dead letters. A dead letter without payload remains and names
//! the sink and the record. Otherwise `verify` would report the record as missing.

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::error::DlqError;
use crate::{
    connections::Connections,
    crash,
    kafka::{Bounds, Letter as OutgoingRecord, Producer},
    progress::{Progress, Unit, steps::Steps},
    runtime::{
        letter::{DeadLetter, PURGED},
        letter_reader::{self, DeadLetterReader},
    },
    source::tables::{content_topic, events_topic, reader_group},
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key},
    },
};

/// Maximum number of dead letters, and of bytes of their keys, in one batch.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Maximum number of writes in flight.
const IN_FLIGHT: usize = 256;

/// Length of a record key in bytes: hash of sink and topic, partition, offset.
const RECORD_KEY_LEN: usize = 28;

/// Length of a sort key in bytes: the record key, followed by the position of the dead
/// letter, inverted so that the latest dead letter sorts first.
const SORT_KEY_LEN: usize = RECORD_KEY_LEN + 12;

/// Result of a purge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Number of dead letters whose payload was erased.
    pub letters: u64,
    /// Number of purged dead letters that still account for a record.
    pub accounted: u64,
}

/// Purges all dead letters. If interrupted, it can be run again to finish.
///
/// # Errors
/// If Kafka fails, or the list of dead letters cannot be written to disk.
pub async fn purge(
    connections: &Connections,
    scratch: &Scratch,
    progress: &dyn Progress,
) -> Result<Purged, DlqError> {
    // Dead letters written after this point are not purged.
    let bounds = letter_reader::bounds(connections).await?;
    if bounds.is_empty() {
        return Ok(Purged::default());
    }
    let purge = Purge {
        connections,
        bounds,
        incarnations: incarnations(connections).await?,
    };
    let (letters, remaining) = purge.list(scratch).await?;
    let accounted = purge
        .rewrite(&remaining, &Steps::new(progress, "dlq"))
        .await?;
    let ends: Vec<(i32, i64)> = (0..)
        .zip(&purge.bounds)
        .map(|(partition, bounds)| (partition, bounds.end))
        .collect();
    crash::point("dlq", "purged");
    let topic = &connections.settings().kafka.dead_letter_topic;
    connections.kafka.delete_before(topic, &ends).await?;
    Ok(Purged { letters, accounted })
}

/// Returns the source topics with their current incarnation.
async fn incarnations(connections: &Connections) -> Result<Vec<(String, String)>, DlqError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    let mut incarnations = Vec::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        incarnations.extend(identity.map(|identity| (topic, identity.to_string())));
    }
    Ok(incarnations)
}

/// A running purge.
struct Purge<'a> {
    connections: &'a Connections,
    bounds: Vec<Bounds>,
    incarnations: Vec<(String, String)>,
}

impl Purge<'_> {
    /// Returns true if a dead letter still accounts for a record. One from an earlier
    /// incarnation of the topic does not.
    fn accounts_for_record(&self, letter: &DeadLetter) -> bool {
        let is_current = |(topic, incarnation): &(String, String)| {
            *topic == letter.topic && *incarnation == letter.generation
        };
        self.incarnations.iter().any(is_current)
    }

    /// Counts the dead letters with a payload, and lists those that account for a
    /// record.
    async fn list(&self, scratch: &Scratch) -> Result<(u64, Sorted<SORT_KEY_LEN>), DlqError> {
        let mut letters = 0;
        let mut remaining = Sorting::new(scratch);
        let mut reader = DeadLetterReader::within(self.connections, &self.bounds)?;
        while let Some(letter) = reader.next().await? {
            letters += u64::from(!letter.purged);
            if self.accounts_for_record(&letter) {
                remaining.add(sort_key(&letter))?;
            }
        }
        Ok((letters, remaining.finish()?))
    }

    /// Rewrites the latest dead letter of each record without payload; an interrupted
    /// purge leaves two. Returns the number of dead letters written.
    async fn rewrite(
        &self,
        remaining: &Sorted<SORT_KEY_LEN>,
        steps: &Steps<'_>,
    ) -> Result<u64, DlqError> {
        let topic = &self.connections.settings().kafka.dead_letter_topic;
        let producer = self.connections.kafka.producer(topic)?;
        let mut reader = DeadLetterReader::within(self.connections, &self.bounds)?;
        let (mut accounted, mut batch, mut bytes) = (0, Vec::new(), 0);
        // Number of dead letters, the unit of the total.
        let mut read: u64 = 0;
        loop {
            let letter = reader.next().await?;
            let is_end = letter.is_none();
            if let Some(letter) = letter.filter(|letter| self.accounts_for_record(letter)) {
                read += 1;
                if is_latest(remaining, &letter)? {
                    bytes += letter.key.as_ref().map_or(0, Vec::len);
                    batch.push(DeadLetter {
                        value: None,
                        ..letter
                    });
                }
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES || is_end {
                accounted += batch.len() as u64;
                bytes = 0;
                write(&producer, std::mem::take(&mut batch)).await?;
                steps.advanced(read, Some(remaining.len() as u64), Unit::Records);
            }
            if is_end {
                return Ok(accounted);
            }
        }
    }
}

/// Returns true if this is the latest dead letter of its record.
fn is_latest(remaining: &Sorted<SORT_KEY_LEN>, letter: &DeadLetter) -> Result<bool, DlqError> {
    let sort_key = sort_key(letter);
    let (record, _) = sort_key.split_at(RECORD_KEY_LEN);
    let latest = remaining.first_with(record, &key(&[record]))?;
    Ok(latest == Some(sort_key))
}

/// Returns the sort key of a dead letter: sink and record, then its own position in
/// descending order.
fn sort_key(letter: &DeadLetter) -> [u8; SORT_KEY_LEN] {
    let mut hash = Sha256::new();
    hash.update(&letter.sink);
    hash.update([0]);
    hash.update(&letter.topic);
    key(&[
        &hash.finalize()[..16],
        &letter.partition.field(),
        &letter.offset.field(),
        &(!letter.id.partition).field(),
        &(!letter.id.offset).field(),
    ])
}

async fn write(producer: &Producer, letters: Vec<DeadLetter>) -> Result<(), DlqError> {
    let mut writes = stream::iter(letters)
        .map(|letter| async move { write_one(producer, &letter).await })
        .buffered(IN_FLIGHT);
    while let Some(outcome) = writes.next().await {
        outcome?;
        crash::point("dlq", "purging");
    }
    Ok(())
}

/// Writes a dead letter without payload.
async fn write_one(producer: &Producer, letter: &DeadLetter) -> Result<(), DlqError> {
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
    let outgoing = OutgoingRecord {
        key: letter.key.as_deref(),
        value: None,
        headers: &headers,
    };
    Ok(producer.send(outgoing).await?)
}
