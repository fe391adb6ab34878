//! A dead letter, as its headers tell of it.

use std::{fmt, str::FromStr};

use crate::kafka::Seen;

/// Header of a letter of which only the place is kept: it was purged.
pub const PURGED: &str = "fanout-purged";

/// Of each key and value whose beginning is kept, so many bytes.
pub(crate) const EXCERPT: usize = 256;

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
    pub(crate) fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }

    /// Keeps the beginning of the bytes; of a text, whole characters.
    pub(crate) fn cut(&mut self) {
        for bytes in [&mut self.key, &mut self.value].into_iter().flatten() {
            let text = std::str::from_utf8(bytes);
            let end = text.map_or(EXCERPT, |text| text.floor_char_boundary(EXCERPT));
            self.truncated |= bytes.len() > end;
            bytes.truncate(end);
            bytes.shrink_to_fit();
        }
    }
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
}
