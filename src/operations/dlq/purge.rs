//! Forgets what dead letters hold. That there was one, of which sink and for
//! which record, stays as a letter without bytes: it accounts for the record,
//! and without it `verify` would miss it.

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::error::DlqError;
use crate::{
    connections::Connections,
    crash,
    kafka::{Bounds, Letter as Outgoing, Producer},
    progress::{Progress, Unit, steps::Steps},
    runtime::{
        letter::{Letter, PURGED},
        letter_reader::{self, Reader},
    },
    source::tables::{content_topic, events_topic, reader_group},
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key},
    },
};

/// Letters that are read before they are written again, in number and in bytes
/// of their keys.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Letters on their way at once.
const IN_FLIGHT: usize = 256;

/// Sink and topic, partition and offset of a record.
const RECORD: usize = 28;

/// The same with the letter's own partition and offset, the latest letter first.
const LETTER: usize = RECORD + 12;

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
/// When the broker does not do it, or the disk does not take the list of letters.
pub async fn purge(
    connections: &Connections,
    scratch: &Scratch,
    progress: &dyn Progress,
) -> Result<Purged, DlqError> {
    // What comes after this is not purged.
    let bounds = letter_reader::bounds(connections).await?;
    if bounds.is_empty() {
        return Ok(Purged::default());
    }
    let purge = Purge {
        connections,
        bounds,
        lives: lives(connections).await?,
    };
    let (letters, kept) = purge.choose(scratch).await?;
    let accounted = purge.keep(&kept, &Steps::new(progress, "dlq")).await?;
    let ends: Vec<(i32, i64)> = (0..)
        .zip(&purge.bounds)
        .map(|(partition, bounds)| (partition, bounds.end))
        .collect();
    crash::point("dlq", "purged");
    let topic = &connections.settings().kafka.dead_letter_topic;
    connections.kafka.delete_before(topic, &ends).await?;
    Ok(Purged { letters, accounted })
}

/// The source's topics, each with its present life.
async fn lives(connections: &Connections) -> Result<Vec<(String, String)>, DlqError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    let mut lives = Vec::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        lives.extend(identity.map(|identity| (topic, identity.to_string())));
    }
    Ok(lives)
}

/// A purge under way.
struct Purge<'a> {
    connections: &'a Connections,
    bounds: Vec<Bounds>,
    lives: Vec<(String, String)>,
}

impl Purge<'_> {
    /// Whether a letter accounts for a record: one of another life does no
    /// more.
    fn accounts(&self, letter: &Letter) -> bool {
        let is_of =
            |(topic, life): &(String, String)| *topic == letter.topic && *life == letter.generation;
        self.lives.iter().any(is_of)
    }

    /// Counts the letters with bytes, and lists those that account for a
    /// record.
    async fn choose(&self, scratch: &Scratch) -> Result<(u64, Sorted<LETTER>), DlqError> {
        let mut letters = 0;
        let mut accounting = Sorting::new(scratch);
        let mut reader = Reader::within(self.connections, &self.bounds)?;
        while let Some(letter) = reader.next().await? {
            letters += u64::from(!letter.purged);
            if self.accounts(&letter) {
                accounting.add(place(&letter))?;
            }
        }
        Ok((letters, accounting.finish()?))
    }

    /// Writes what stays of the letters: of each record, the latest one. A purge
    /// that was killed leaves two. Returns how many there are.
    async fn keep(&self, kept: &Sorted<LETTER>, steps: &Steps<'_>) -> Result<u64, DlqError> {
        let topic = &self.connections.settings().kafka.dead_letter_topic;
        let producer = self.connections.kafka.producer(topic)?;
        let mut reader = Reader::within(self.connections, &self.bounds)?;
        let (mut accounted, mut batch, mut bytes) = (0, Vec::new(), 0);
        // Letters, like the total.
        let mut read: u64 = 0;
        loop {
            let letter = reader.next().await?;
            let ended = letter.is_none();
            if let Some(letter) = letter.filter(|letter| self.accounts(letter)) {
                read += 1;
                if is_latest(kept, &letter)? {
                    bytes += letter.key.as_ref().map_or(0, Vec::len);
                    batch.push(Letter {
                        value: None,
                        ..letter
                    });
                }
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES || ended {
                accounted += batch.len() as u64;
                bytes = 0;
                write(&producer, std::mem::take(&mut batch)).await?;
                steps.advanced(read, Some(kept.len() as u64), Unit::Records);
            }
            if ended {
                return Ok(accounted);
            }
        }
    }
}

/// Whether of all letters of a record this is the latest.
fn is_latest(kept: &Sorted<LETTER>, letter: &Letter) -> Result<bool, DlqError> {
    let own = place(letter);
    let (record, _) = own.split_at(RECORD);
    let latest = kept.first_with(record, &key(&[record]))?;
    Ok(latest == Some(own))
}

/// Of which sink and record a letter is, and where it is itself, in descending
/// order.
fn place(letter: &Letter) -> [u8; LETTER] {
    let mut source = Sha256::new();
    source.update(&letter.sink);
    source.update([0]);
    source.update(&letter.topic);
    key(&[
        &source.finalize()[..16],
        &letter.partition.field(),
        &letter.offset.field(),
        &(!letter.id.partition).field(),
        &(!letter.id.offset).field(),
    ])
}

async fn write(producer: &Producer, letters: Vec<Letter>) -> Result<(), DlqError> {
    let mut written = stream::iter(letters)
        .map(|letter| async move { write_one(producer, &letter).await })
        .buffered(IN_FLIGHT);
    while let Some(outcome) = written.next().await {
        outcome?;
        crash::point("dlq", "purging");
    }
    Ok(())
}

/// Writes what stays of a letter.
async fn write_one(producer: &Producer, letter: &Letter) -> Result<(), DlqError> {
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
