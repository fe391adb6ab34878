//! Dead letters: rejected records with their sink, reason and original payload. They
//! can be listed, applied again by [`replay`], and erased by [`purge`].

mod error;
mod filter;
mod purge;
mod replay;

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::{
    connections::Connections,
    kafka::{Stretch, of_partition},
    runtime::{DeadLetter, DeadLetterId, letter_reader},
    source::tables::reader_group,
};

pub(super) use crate::runtime::letter::PURGED;
pub use crate::runtime::letter_reader::DeadLetterReader;
pub use error::DlqError;
pub use filter::Filter;
pub use purge::{Purged, purge};
pub use replay::{Replay, Report, Selected, select};

/// Maximum number of bytes of keys and values in a list. Beyond it, the keys and values
/// of the oldest dead letters in the list are truncated.
const MAX_LISTED_BYTES: usize = 64 * 1024 * 1024;

/// Maximum number of kinds that are counted separately. fanout writes a few dozen, but
/// other records in the topic may have any names.
const MAX_KINDS: usize = 1_000;

/// Number of dead letters of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    pub sink: String,
    pub code: String,
    pub letters: u64,
}

/// The latest dead letters, and the number of all by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The latest dead letters, in ascending order.
    pub latest: Vec<DeadLetter>,
    pub counts: Vec<Count>,
    /// Number of purged dead letters.
    pub purged: u64,
}

/// Bounded list of the latest dead letters.
struct Latest {
    letters: VecDeque<DeadLetter>,
    limit: usize,
    /// Size of their keys and values in bytes.
    bytes: usize,
    /// Number of truncated dead letters, which are the oldest ones.
    truncated: usize,
}

impl Latest {
    fn new(limit: usize) -> Self {
        Self {
            letters: VecDeque::new(),
            limit,
            bytes: 0,
            truncated: 0,
        }
    }

    fn push(&mut self, letter: DeadLetter) {
        if self.letters.len() >= self.limit {
            if let Some(oldest) = self.letters.pop_front() {
                self.bytes -= oldest.size();
            }
            self.truncated = self.truncated.saturating_sub(1);
        }
        if self.limit == 0 {
            return;
        }
        self.bytes += letter.size();
        self.letters.push_back(letter);
        while self.bytes > MAX_LISTED_BYTES
            && let Some(oldest) = self.letters.get_mut(self.truncated)
        {
            self.bytes -= oldest.size();
            oldest.truncate();
            self.bytes += oldest.size();
            self.truncated += 1;
        }
    }
}

/// Returns the latest dead letters that match the filter, and the number of matching
/// ones by kind.
///
/// # Errors
/// If the broker does not respond.
pub async fn list(
    connections: &Connections,
    filter: &Filter,
    limit: usize,
) -> Result<Listing, DlqError> {
    let mut listing = Listing::default();
    let mut latest = Latest::new(limit);
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut reader = DeadLetterReader::start(connections).await?;
    while let Some(letter) = reader.next().await? {
        listing.purged += u64::from(letter.purged);
        if !filter.matches(&letter) {
            continue;
        }
        let mut kind = (letter.sink.clone(), letter.code.clone());
        if counts.len() >= MAX_KINDS && !counts.contains_key(&kind) {
            kind = ("other".to_owned(), "other".to_owned());
        }
        *counts.entry(kind).or_default() += 1;
        latest.push(letter);
    }
    let count = |((sink, code), letters)| Count {
        sink,
        code,
        letters,
    };
    listing.latest = latest.letters.into();
    listing.counts = counts.into_iter().map(count).collect();
    Ok(listing)
}

/// Returns one dead letter with its payload.
///
/// # Errors
/// If the broker does not respond or there is no such dead letter.
pub async fn find(connections: &Connections, id: DeadLetterId) -> Result<DeadLetter, DlqError> {
    let settings = connections.settings();
    let topic = settings.kafka.dead_letter_topic.clone();
    let reader = reader_group(settings, "dlq");
    let bounds = letter_reader::bounds(connections).await?;
    let bounds = of_partition(&bounds, id.partition).copied();
    let exists = bounds.is_some_and(|bounds| (bounds.start..bounds.end).contains(&id.offset));
    if exists {
        let stretch = Stretch {
            partition: id.partition,
            from: id.offset,
            until: Some(id.offset + 1),
        };
        let mut scan = connections.kafka.scan(&reader, &topic, &[stretch])?;
        if let Some(seen) = scan.next().await? {
            return Ok(DeadLetter::from(seen));
        }
    }
    Err(DlqError::NotFound { id, topic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kafka::Seen, runtime::letter::EXCERPT, sink_kind::ConsumerGroup};

    #[test]
    fn a_dead_letter_with_missing_headers_is_listed() {
        let seen = Seen {
            partition: 0,
            offset: 1,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![0xff]),
            headers: vec![("fanout-sink".to_owned(), b"http".to_vec())],
        };
        let letter = DeadLetter::from(seen);
        assert_eq!((letter.sink.as_str(), letter.offset), ("http", -1));
        let filter = |sink| Filter {
            sink: Some(sink),
            ..Filter::default()
        };
        assert!(filter(ConsumerGroup::Http).matches(&letter));
        assert!(!filter(ConsumerGroup::Board).matches(&letter));
    }

    fn letter_of_size(offset: i64, bytes: usize) -> DeadLetter {
        DeadLetter::from(Seen {
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![b'v'; bytes]),
            headers: Vec::new(),
        })
    }

    #[test]
    fn a_list_is_bounded_in_number_and_bytes() {
        let mut latest = Latest::new(10);
        let large = MAX_LISTED_BYTES / 4;
        for offset in 0..100 {
            latest.push(letter_of_size(offset, large));
            let bytes: usize = latest.letters.iter().map(DeadLetter::size).sum();
            assert_eq!(bytes, latest.bytes);
            assert!(bytes <= MAX_LISTED_BYTES && latest.letters.len() <= 10);
        }
        let shown: Vec<i64> = latest
            .letters
            .iter()
            .map(|letter| letter.id.offset)
            .collect();
        assert_eq!(shown, (90..100).collect::<Vec<i64>>());
        let sizes: Vec<usize> = latest.letters.iter().map(DeadLetter::size).collect();
        assert_eq!(sizes[..7], [EXCERPT; 7]);
        assert_eq!(sizes[7..], [large; 3]);
        let lengths = latest.letters.iter().map(|letter| letter.value_bytes);
        assert!(lengths.eq([Some(large); 10]));
        let truncated = latest.letters.iter().filter(|letter| letter.truncated);
        assert_eq!(truncated.count(), 7);
        let mut none = Latest::new(0);
        none.push(letter_of_size(0, 1));
        assert!(none.letters.is_empty() && none.bytes == 0);
    }

    #[test]
    fn a_text_is_truncated_between_two_characters() {
        let truncate = |value: Vec<u8>| {
            let mut letter = letter_of_size(0, 0);
            letter.value = Some(value);
            letter.truncate();
            (letter.value.as_ref().map(Vec::len), letter.truncated)
        };
        assert_eq!(truncate("€".repeat(100).into_bytes()), (Some(255), true));
        assert_eq!(truncate(vec![0xff; 300]), (Some(EXCERPT), true));
        assert_eq!(truncate("€".repeat(85).into_bytes()), (Some(255), false));
    }
}
