//! A record, and what it does to a row.

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
