//! Dead letters: what was rejected, by whom and why, with the original bytes;
//! applied again by [`replay`], forgotten by [`purge`].

mod purge;
mod replay;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
};

use serde::Serialize;

use super::{
    backfill::BackfillError,
    fence::{consumer, group},
};
use crate::{
    clients::kafka::{KafkaError, Log, Scan, Seen, Stretch},
    config::Settings,
    event::RejectCode,
    failure::{Failure, Kind},
    pipeline::replay::ReplayError,
    sinks::http,
    suggest::unknown,
};

pub use purge::{Purged, purge};
pub use replay::{Replay, Report, Selected, select};

/// Header of a letter of which only the place is kept: it was purged.
const PURGED: &str = "fanout-purged";

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
}

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// These; all, where none is named.
    pub ids: Vec<LetterId>,
    pub sink: Option<String>,
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
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Board(#[from] BackfillError),
}

impl Failure for DlqError {
    fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) => Kind::Environment,
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
            Self::NoLetter { .. } => "no_letter",
            Self::Replay(error) => error.code(),
            Self::Board(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kafka(_) => "fanout status",
            Self::Unknown(_) => "fanout dlq --help",
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
            key: seen.key,
            value: seen.value,
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

/// Who dead-letters: the sinks, and the copy of the content table.
const SINKS: [&str; 4] = ["redis", "clickhouse", "http", "content"];

impl Filter {
    /// A filter by names, which have to be names of something.
    ///
    /// # Errors
    /// When there is no such sink or code.
    pub fn new(
        ids: Vec<LetterId>,
        sink: Option<String>,
        code: Option<String>,
    ) -> Result<Self, DlqError> {
        let codes: Vec<&str> = RejectCode::ALL
            .iter()
            .map(|code| code.as_str())
            .chain(http::REJECT_CODES)
            .collect();
        for (what, name, known) in [("sink", &sink, &SINKS[..]), ("code", &code, &codes)] {
            if let Some(name) = name
                && !known.contains(&name.as_str())
            {
                return Err(DlqError::Unknown(unknown(what, name, known)));
            }
        }
        Ok(Self { ids, sink, code })
    }

    fn takes(&self, letter: &Letter) -> bool {
        if letter.purged || !(self.ids.is_empty() || self.ids.contains(&letter.id)) {
            return false;
        }
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        is(&self.sink, &letter.sink) && is(&self.code, &letter.code)
    }
}

/// Calls `visit` with each letter, oldest first within a partition. No topic:
/// no letters.
///
/// # Errors
/// When the broker does not answer.
pub async fn for_each(
    settings: &Settings,
    mut visit: impl FnMut(Letter),
) -> Result<(), KafkaError> {
    let topic = &settings.kafka.dead_letter_topic;
    let reader = group(settings, "dlq");
    let log = Log::new(&consumer(settings), &reader)?;
    if log.partitions(topic).await?.is_none() {
        return Ok(());
    }
    let bounds = log.bounds(topic).await?;
    let whole = |(partition, bounds): (i32, &crate::clients::kafka::Bounds)| Stretch {
        partition,
        from: bounds.start,
        until: Some(bounds.end),
    };
    let stretches: Vec<Stretch> = (0..).zip(&bounds).map(whole).collect();
    let mut scan = Scan::start(&consumer(settings), &reader, topic, &stretches)?;
    while let Some(seen) = scan.next().await? {
        visit(Letter::from(seen));
    }
    Ok(())
}

/// The latest letters that the filter takes, and how many there are of each
/// kind.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(settings: &Settings, filter: &Filter, limit: usize) -> Result<Listing, DlqError> {
    let mut latest = VecDeque::new();
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut purged = 0;
    for_each(settings, |letter| {
        purged += u64::from(letter.purged);
        if !filter.takes(&letter) {
            return;
        }
        *counts
            .entry((letter.sink.clone(), letter.code.clone()))
            .or_default() += 1;
        if latest.len() == limit {
            latest.pop_front();
        }
        if limit > 0 {
            latest.push_back(letter);
        }
    })
    .await?;
    let count = |((sink, code), letters)| Count {
        sink,
        code,
        letters,
    };
    Ok(Listing {
        latest: latest.into(),
        counts: counts.into_iter().map(count).collect(),
        purged,
    })
}

/// One letter with its bytes.
///
/// # Errors
/// When the broker does not answer or there is no such letter.
pub async fn find(settings: &Settings, id: LetterId) -> Result<Letter, DlqError> {
    let topic = settings.kafka.dead_letter_topic.clone();
    let reader = group(settings, "dlq");
    let log = Log::new(&consumer(settings), &reader)?;
    let place = usize::try_from(id.partition).unwrap_or(usize::MAX);
    let bounds = match log.partitions(&topic).await? {
        Some(_) => log.bounds(&topic).await?.get(place).copied(),
        None => None,
    };
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
            Filter::new(Vec::new(), sink.map(str::to_owned), code.map(str::to_owned))
        };
        assert!(filter(Some("content"), Some("bad_uuid")).is_ok());
        assert!(filter(Some("http"), Some("http_conflict")).is_ok());
        let error = filter(Some("htpp"), None).expect_err("no sink");
        assert!(
            error.to_string().ends_with("(did you mean \"http\"?)"),
            "{error}"
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
        let filter = |sink: &str| Filter {
            sink: Some(sink.to_owned()),
            ..Filter::default()
        };
        assert!(filter("http").takes(&letter));
        assert!(!filter("redis").takes(&letter));
    }
}
