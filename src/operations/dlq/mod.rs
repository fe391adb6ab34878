//! Dead letters: what was rejected, by whom and why, with the original bytes;
//! applied again by [`replay`], forgotten by [`purge`].

mod purge;
mod reader;
mod replay;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    str::FromStr,
};

use serde::Serialize;

use super::{
    backfill::BackfillError,
    fence::{consumer, reader_group},
};
use crate::{
    clients::kafka::{KafkaError, Scan, Seen, Stretch},
    config::Settings,
    event::RejectCode,
    failure::{Failure, Kind},
    pipeline::replay::ReplayError,
    sink_kind::ConsumerGroup,
    sinks::http,
    suggest::unknown,
};

pub use purge::{Purged, purge};
pub use reader::Reader;
pub use replay::{Replay, Report, Selected, select};

/// Header of a letter of which only the place is kept: it was purged.
pub(super) const PURGED: &str = "fanout-purged";

/// Bytes of keys and values that a list holds. Beyond it, the older letters of
/// the list keep the beginning of theirs.
const MAX_LISTED: usize = 64 * 1024 * 1024;

/// Of each key and value whose beginning is kept, so many bytes.
const EXCERPT: usize = 256;

/// Kinds of letter that are counted apart. fanout makes a few dozen; what else
/// is in the topic may bear any name.
const MAX_KINDS: usize = 1_000;

/// Where a letter is in the topic of dead letters: `partition:offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    pub partition: i32,
    pub offset: i64,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub id: LetterId,
    pub sink: String,
    /// Stable name of the reason.
    pub code: String,
    pub error: String,
    /// The record's own position.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Life of the topic that the position is of.
    pub generation: String,
    /// RFC 3339.
    pub time: String,
    /// When the broker appended the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Its bytes are gone, on purpose; that it was one is kept, because it
    /// accounts for the record.
    pub purged: bool,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Bytes of the whole value, of which a list has the beginning only.
    pub value_bytes: Option<usize>,
    /// Of key or value, only the beginning is here.
    pub truncated: bool,
}

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// These; all, where none is named.
    pub ids: BTreeSet<LetterId>,
    pub sink: Option<ConsumerGroup>,
    pub code: Option<String>,
}

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

/// Why dead letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    #[error("kafka does not give the dead letters")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Unknown(String),
    #[error("there is no dead letter {id} in {topic}")]
    NoLetter { id: LetterId, topic: String },
    #[error("cannot use temporary files")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Board(#[from] BackfillError),
}

impl Failure for DlqError {
    fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) | Self::Disk(_) => Kind::Environment,
            Self::Unknown(_) => Kind::Usage,
            Self::NoLetter { .. } => Kind::Failed,
            Self::Replay(error) => error.kind(),
            Self::Board(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Unknown(_) => "usage",
            Self::Disk(_) => "temporary_files",
            Self::NoLetter { .. } => "no_letter",
            Self::Replay(error) => error.code(),
            Self::Board(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::Unknown(_) => "fanout dlq --help",
            Self::Disk(_) => "free space in that folder, then run it again",
            Self::NoLetter { .. } => "fanout dlq ls",
            Self::Replay(error) => return error.hint(),
            Self::Board(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(':');
        let read = parts.and_then(|(partition, offset)| {
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        });
        read.ok_or_else(|| "expected partition:offset, such as 0:17".to_owned())
    }
}

impl From<Seen> for Letter {
    /// A header that is missing is empty, or -1: the letter is shown anyway.
    fn from(seen: Seen) -> Self {
        let text = |name: &str| seen.header(name).unwrap_or_default();
        Self {
            id: LetterId {
                partition: seen.partition,
                offset: seen.offset,
            },
            sink: text("fanout-sink"),
            code: text("fanout-code"),
            error: text("fanout-error"),
            topic: text("fanout-topic"),
            partition: text("fanout-partition").parse().unwrap_or(-1),
            offset: text("fanout-offset").parse().unwrap_or(-1),
            generation: text("fanout-generation"),
            timestamp_ms: timestamp_ms(&seen),
            time: text("fanout-time"),
            purged: seen.header(PURGED).is_some(),
            value_bytes: seen.value.as_ref().map(Vec::len),
            key: seen.key,
            value: seen.value,
            truncated: false,
        }
    }
}

/// The record's own time; of letters that do not have it, when they were
/// written, which is soon after.
fn timestamp_ms(seen: &Seen) -> i64 {
    let header = seen.header("fanout-timestamp");
    let own = header.and_then(|text| text.parse().ok());
    own.unwrap_or(seen.timestamp_ms)
}

impl Letter {
    /// Bytes of key and value.
    fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }

    /// Keeps the beginning of the bytes; of a text, whole characters.
    fn cut(&mut self) {
        for bytes in [&mut self.key, &mut self.value].into_iter().flatten() {
            let text = std::str::from_utf8(bytes);
            let end = text.map_or(EXCERPT, |text| text.floor_char_boundary(EXCERPT));
            self.truncated |= bytes.len() > end;
            bytes.truncate(end);
            bytes.shrink_to_fit();
        }
    }
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

impl Filter {
    /// A filter by names, which have to be names of something.
    ///
    /// # Errors
    /// When there is no such sink or code.
    pub fn new(
        ids: BTreeSet<LetterId>,
        sink: Option<String>,
        code: Option<String>,
    ) -> Result<Self, DlqError> {
        let sink = sink.map(|name| name.parse::<ConsumerGroup>()).transpose();
        let sink = sink.map_err(|error| DlqError::Unknown(error.to_string()))?;
        let codes: Vec<&str> = RejectCode::ALL
            .iter()
            .map(|code| code.as_str())
            .chain(http::REJECT_CODES)
            .collect();
        if let Some(code) = &code
            && !codes.contains(&code.as_str())
        {
            return Err(DlqError::Unknown(unknown("code", code, &codes)));
        }
        Ok(Self { ids, sink, code })
    }

    fn takes(&self, letter: &Letter) -> bool {
        if letter.purged || !(self.ids.is_empty() || self.ids.contains(&letter.id)) {
            return false;
        }
        let is_sink = |sink: ConsumerGroup| sink.name() == letter.sink;
        let is_code = |code: &str| code == letter.code;
        self.sink.is_none_or(is_sink) && self.code.as_deref().is_none_or(is_code)
    }
}

/// The latest letters that the filter takes, and how many there are of each
/// kind.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(settings: &Settings, filter: &Filter, limit: usize) -> Result<Listing, DlqError> {
    let mut listing = Listing::default();
    let mut latest = Latest::new(limit);
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut letters = Reader::start(settings).await?;
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
pub async fn find(settings: &Settings, id: LetterId) -> Result<Letter, DlqError> {
    let topic = settings.kafka.dead_letter_topic.clone();
    let reader = reader_group(settings, "dlq");
    let place = usize::try_from(id.partition).unwrap_or(usize::MAX);
    let bounds = reader::bounds(settings).await?.get(place).copied();
    let there = bounds.is_some_and(|bounds| (bounds.start..bounds.end).contains(&id.offset));
    if there {
        let stretch = Stretch {
            partition: id.partition,
            from: id.offset,
            until: Some(id.offset + 1),
        };
        let mut scan = Scan::start(&consumer(settings), &reader, &topic, &[stretch])?;
        if let Some(seen) = scan.next().await? {
            return Ok(Letter::from(seen));
        }
    }
    Err(DlqError::NoLetter { id, topic })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = LetterId {
            partition: 2,
            offset: 17,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "2", "2:", ":7", "a:b"] {
            assert!(text.parse::<LetterId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_filter_by_a_name_that_is_none_is_a_mistake() {
        let filter = |sink: Option<&str>, code: Option<&str>| {
            Filter::new(
                BTreeSet::new(),
                sink.map(str::to_owned),
                code.map(str::to_owned),
            )
        };
        assert!(filter(Some("content"), Some("bad_uuid")).is_ok());
        assert!(filter(Some("http"), Some("http_conflict")).is_ok());
        let error = filter(Some("htpp"), Some("bad_uid")).expect_err("no sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htpp\", expected one of redis, clickhouse, http, content (did you \
             mean \"http\"?)"
        );
        let error = filter(None, Some("bad_uid")).expect_err("no code");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(
            error.to_string().ends_with("(did you mean \"bad_uuid\"?)"),
            "{error}"
        );
    }

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
