//! The records of the source topics and what they mean.
//!
//! Owns the step from bytes to a typed [`Change`]: Debezium's envelope, with
//! and without a schema, the columns of both source tables, and the one body
//! and idempotency key each event has outside. Each reader decodes the columns
//! that it needs and no others, so what is wrong with another column does not
//! concern it. A function of the record and of the known [`unavailable`]
//! placeholders: what becomes of a change is the sinks' business, what becomes
//! of a [`Reject`] the pipeline's.

mod cell;
mod columns;
mod content;
mod decode;
mod document;
mod engagement;
mod envelope;
pub mod idempotency;
mod key;
mod reject;
mod schema;
#[cfg(test)]
mod tests;
pub mod unavailable;

use uuid::Uuid;

pub use content::{Content, ContentTable, Dimension, DimensionTable};
pub use decode::{Decoder, SourceTable, Table, columns_read};
pub use engagement::{Counted, CountedTable, Engagement, EngagementTable};
pub use reject::{Reject, RejectCode, Shape};
pub use unavailable::Unavailable;

/// One record of a source topic, borrowed from the consumer.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// When the broker appended the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Where it stands, for people: `topic/partition@offset`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// What a record does to the row `R` known by `I`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<R, I> {
    /// The row is now this.
    Upsert {
        origin: Origin,
        row: R,
        /// The row had columns the program does not know. They are left out.
        extra_fields: bool,
        /// Where the change is in Postgres' log; none for a row of an
        /// incremental snapshot.
        lsn: Option<i64>,
    },
    /// The row is gone.
    Delete { id: I },
    /// Every row of the table is gone.
    Truncate {
        /// Where the change is in Postgres' log: the rows before it are the
        /// ones that are gone.
        lsn: Option<i64>,
    },
    /// Nothing happens to any row.
    Ignored(Ignored),
}

/// A change of `engagement_events`.
pub type FactChange<'a> = Change<Engagement<'a>, i64>;

/// A change of `content`.
pub type ContentChange<'a> = Change<Content<'a>, Uuid>;

/// Decodes `engagement_events`.
pub type FactDecoder = Decoder<EngagementTable>;

/// Decodes `content` for those who show it.
pub type ContentDecoder = Decoder<ContentTable>;

/// Decodes `content` for enrichment.
pub type DimensionDecoder = Decoder<DimensionTable>;

/// How the connector came to know the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `op` is `c`.
    Insert,
    /// `op` is `u`.
    Update,
    /// `op` is `r`: read by the snapshot a connector begins with.
    Snapshot,
    /// `op` is `r`: read by a snapshot that was signalled later.
    IncrementalSnapshot,
}

impl Origin {
    /// The stable name used in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Snapshot => "snapshot",
            Self::IncrementalSnapshot => "incremental_snapshot",
        }
    }
}

/// Why a record changes no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The null value after a delete, for log compaction.
    Tombstone,
    /// The connector's sign of life: nothing but clocks.
    Heartbeat,
    /// `op` is `m`: a logical decoding message.
    Message,
}

impl Ignored {
    /// The stable name used in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Heartbeat => "heartbeat",
            Self::Message => "message",
        }
    }
}
