//! Dead letters: what was rejected, by whom and why, with the original bytes;
//! applied again by [`replay`], forgotten by [`purge`].

mod error;
mod filter;
mod purge;
mod replay;

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::{
    connections::Connections,
    kafka::Stretch,
    runtime::{Letter, LetterId, letter_reader},
    source::tables::reader_group,
};

pub(super) use crate::runtime::letter::PURGED;
pub use crate::runtime::letter_reader::Reader;
pub use error::DlqError;
pub use filter::Filter;
pub use purge::{Purged, purge};
pub use replay::{Replay, Report, Selected, select};

/// Bytes of keys and values that a list holds. Beyond it, the older letters of
/// the list keep the beginning of theirs.
const MAX_LISTED: usize = 64 * 1024 * 1024;

/// Kinds of letter that are counted apart. fanout makes a few dozen; what else
/// is in the topic may bear any name.
const MAX_KINDS: usize = 1_000;

/// How many there are of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    pub sink: String,
    pub code: String,
    pub letters: u64,
}

/// The latest letters and how many there are of all kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Latest last.
    pub latest: Vec<Letter>,
    pub counts: Vec<Count>,
    /// Letters whose bytes were purged.
    pub purged: u64,
}

/// The latest letters, within their bounds.
struct Latest {
    letters: VecDeque<Letter>,
    limit: usize,
    /// Bytes of their keys and values.
    bytes: usize,
    /// How many of the oldest have been cut.
    cut: usize,
}

impl Latest {
    fn new(limit: usize) -> Self {
        Self {
            letters: VecDeque::new(),
            limit,
            bytes: 0,
            cut: 0,
        }
    }

    fn push(&mut self, letter: Letter) {
        if self.letters.len() >= self.limit {
            if let Some(oldest) = self.letters.pop_front() {
                self.bytes -= oldest.size();
            }
            self.cut = self.cut.saturating_sub(1);
        }
        if self.limit == 0 {
            return;
        }
        self.bytes += letter.size();
        self.letters.push_back(letter);
        while self.bytes > MAX_LISTED
            && let Some(oldest) = self.letters.get_mut(self.cut)
        {
            self.bytes -= oldest.size();
            oldest.cut();
            self.bytes += oldest.size();
            self.cut += 1;
        }
    }
}

/// The latest letters that the filter takes, and how many there are of each
/// kind.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(
    connections: &Connections,
    filter: &Filter,
    limit: usize,
) -> Result<Listing, DlqError> {
    let mut listing = Listing::default();
    let mut latest = Latest::new(limit);
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut letters = Reader::start(connections).await?;
    while let Some(letter) = letters.next().await? {
        listing.purged += u64::from(letter.purged);
        if !filter.takes(&letter) {
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

/// One letter with its bytes.
///
/// # Errors
/// When the broker does not answer or there is no such letter.
pub async fn find(connections: &Connections, id: LetterId) -> Result<Letter, DlqError> {
    let settings = connections.settings();
    let topic = settings.kafka.dead_letter_topic.clone();
    let reader = reader_group(settings, "dlq");
    let place = usize::try_from(id.partition).unwrap_or(usize::MAX);
    let bounds = letter_reader::bounds(connections)
        .await?
        .get(place)
        .copied();
    let there = bounds.is_some_and(|bounds| (bounds.start..bounds.end).contains(&id.offset));
    if there {
        let stretch = Stretch {
            partition: id.partition,
            from: id.offset,
            until: Some(id.offset + 1),
        };
        let mut scan = connections.kafka.scan(&reader, &topic, &[stretch])?;
        if let Some(seen) = scan.next().await? {
            return Ok(Letter::from(seen));
        }
    }
    Err(DlqError::NoLetter { id, topic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kafka::Seen, runtime::letter::EXCERPT, sink_kind::ConsumerGroup};

    #[test]
    fn a_letter_without_headers_is_still_one() {
        let seen = Seen {
            partition: 0,
            offset: 1,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![0xff]),
            headers: vec![("fanout-sink".to_owned(), b"http".to_vec())],
        };
        let letter = Letter::from(seen);
        assert_eq!((letter.sink.as_str(), letter.offset), ("http", -1));
        let filter = |sink| Filter {
            sink: Some(sink),
            ..Filter::default()
        };
        assert!(filter(ConsumerGroup::Http).takes(&letter));
        assert!(!filter(ConsumerGroup::Board).takes(&letter));
    }

    fn sized(offset: i64, bytes: usize) -> Letter {
        Letter::from(Seen {
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![b'v'; bytes]),
            headers: Vec::new(),
        })
    }

    #[test]
    fn a_list_is_bounded_in_letters_and_in_bytes() {
        let mut latest = Latest::new(10);
        let large = MAX_LISTED / 4;
        for offset in 0..100 {
            latest.push(sized(offset, large));
            let held: usize = latest.letters.iter().map(Letter::size).sum();
            assert_eq!(held, latest.bytes);
            assert!(held <= MAX_LISTED && latest.letters.len() <= 10);
        }
        let shown: Vec<i64> = latest
            .letters
            .iter()
            .map(|letter| letter.id.offset)
            .collect();
        assert_eq!(shown, (90..100).collect::<Vec<i64>>());
        let sizes: Vec<usize> = latest.letters.iter().map(Letter::size).collect();
        assert_eq!(sizes[..7], [EXCERPT; 7]);
        assert_eq!(sizes[7..], [large; 3]);
        let whole = latest.letters.iter().map(|letter| letter.value_bytes);
        assert!(whole.eq([Some(large); 10]));
        let truncated = latest.letters.iter().filter(|letter| letter.truncated);
        assert_eq!(truncated.count(), 7);
        let mut none = Latest::new(0);
        none.push(sized(0, 1));
        assert!(none.letters.is_empty() && none.bytes == 0);
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let cut = |value: Vec<u8>| {
            let mut letter = sized(0, 0);
            letter.value = Some(value);
            letter.cut();
            (letter.value.as_ref().map(Vec::len), letter.truncated)
        };
        assert_eq!(cut("€".repeat(100).into_bytes()), (Some(255), true));
        assert_eq!(cut(vec![0xff; 300]), (Some(EXCERPT), true));
        assert_eq!(cut("€".repeat(85).into_bytes()), (Some(255), false));
    }
}
