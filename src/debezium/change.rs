//! A record, and the change that it makes to a row.

/// One record of a source topic, borrowed from the consumer.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Time at which the broker appended the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Returns the record's position for display: `topic/partition@offset`.
    #[must_use]
    pub fn position(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// The change that a record makes to the row `R` with the id `I`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<R, I> {
    /// The row was inserted or updated.
    Upsert {
        origin: Origin,
        row: R,
        /// Whether the row had unknown columns, which were skipped.
        extra_fields: bool,
        /// Position of the change in the Postgres log. `None` for a row of an incremental
        /// snapshot.
        lsn: Option<i64>,
    },
    /// The row was deleted.
    Delete { id: I },
    /// All rows of the table were deleted.
    Truncate {
        /// Position of the change in the Postgres log. Only rows that were written before it
        /// are deleted.
        lsn: Option<i64>,
    },
    /// The record changes no row.
    Ignored(Ignored),
}

/// The operation through which the connector read the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `op` is `c`.
    Insert,
    /// `op` is `u`.
    Update,
    /// `op` is `r`: read by the connector's initial snapshot.
    Snapshot,
    /// `op` is `r`: read by a snapshot that was requested later by a signal.
    IncrementalSnapshot,
}

impl Origin {
    /// Returns the stable name used in metrics.
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

/// Reason why a record changes no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The null value after a delete, for log compaction.
    Tombstone,
    /// The connector's heartbeat, which contains only timestamps.
    Heartbeat,
    /// `op` is `m`: a logical decoding message.
    Message,
}

impl Ignored {
    /// Returns the stable name used in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Heartbeat => "heartbeat",
            Self::Message => "message",
        }
    }
}
