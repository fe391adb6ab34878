//! A dead letter, read from its headers.

use std::{fmt, str::FromStr};

use crate::kafka::Seen;

/// Header of a purged dead letter, which has no payload.
pub const PURGED: &str = "fanout-purged";

/// Number of bytes kept of a truncated key or value.
pub(crate) const EXCERPT: usize = 256;

/// Position of a dead letter in the dead-letter topic: `partition:offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    pub partition: i32,
    pub offset: i64,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub sink: String,
    /// Stable name of the reason for the rejection.
    pub code: String,
    pub error: String,
    /// Topic of the rejected record. `partition` and `offset` are its position there.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Incarnation of the topic that the position belongs to.
    pub generation: String,
    /// Time of the rejection, in RFC 3339.
    pub time: String,
    /// Append time of the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Whether the payload was purged. The rest of the dead letter is kept, because
    /// it accounts for the record.
    pub purged: bool,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Length of the complete value in bytes, even if `value` is truncated.
    pub value_bytes: Option<usize>,
    /// Whether `key` or `value` is truncated.
    pub truncated: bool,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for DeadLetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(':');
        let id = parts.and_then(|(partition, offset)| {
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        });
        id.ok_or_else(|| "expected partition:offset, such as 0:17".to_owned())
    }
}

impl From<Seen> for DeadLetter {
    /// A missing header becomes empty or -1, so that the dead letter is shown anyway.
    fn from(seen: Seen) -> Self {
        let text = |name: &str| seen.header(name).unwrap_or_default();
        Self {
            id: DeadLetterId {
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

/// Returns the append time of the record. A dead letter without that header has its
/// own append time, which is only slightly later.
fn timestamp_ms(seen: &Seen) -> i64 {
    let header = seen.header("fanout-timestamp");
    let timestamp_ms = header.and_then(|text| text.parse().ok());
    timestamp_ms.unwrap_or(seen.timestamp_ms)
}

impl DeadLetter {
    /// Returns the size of key and value in bytes.
    pub(crate) fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }

    /// Truncates key and value to [`EXCERPT`] bytes, between two characters if they
    /// are text.
    pub(crate) fn truncate(&mut self) {
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
    fn a_displayed_id_can_be_parsed() {
        let id = DeadLetterId {
            partition: 2,
            offset: 17,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "2", "2:", ":7", "a:b"] {
            assert!(text.parse::<DeadLetterId>().is_err(), "{text}");
        }
    }
}
