//! The two stored records about the source: its fingerprint when history was last known to be
//! complete, and later events that no fingerprint shows.
//!
//! ```text
//! source.baseline   format 1   written at the first start and by a reconcile
//! source.changed    format 1   valid only with the baseline whose id it contains
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Code, Fingerprint, Properties};

/// Format version of both records.
const FORMAT: u16 = 1;

/// State of the source when history was last known to be complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    format: u16,
    /// Id of the baseline. Every reconcile creates a new one.
    pub id: String,
    /// Time of the baseline, RFC 3339.
    pub at: String,
    pub fingerprint: Fingerprint,
    /// The properties that fanout last configured the connector with, as returned by
    /// [`super::relevant`]. `None` if Kafka Connect was unreachable.
    pub connector: Option<Properties>,
}

/// Changes that were noticed after a baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    format: u16,
    /// Id of the baseline. With another baseline, this record is void.
    pub baseline: String,
    pub reasons: Vec<Reason>,
}

/// Reason why history may be incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: Code,
    /// The table concerned. `None` means all tables.
    pub table: Option<String>,
    pub what: String,
    /// Time at which it was first noticed, RFC 3339.
    pub at: String,
}

/// Error while reading a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{key} has format {found}, but this version supports only format {FORMAT}")]
    Format { key: &'static str, found: u16 },
    #[error("cannot parse {key}")]
    Malformed {
        key: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

/// The format version alone, to detect another format before parsing the rest.
#[derive(Deserialize)]
struct FormatOnly {
    format: u16,
}

impl Baseline {
    /// Key in the state topic.
    pub const KEY: &'static str = "source.baseline";

    /// Returns a baseline with this id and time.
    #[must_use]
    pub fn new(
        id: String,
        at: String,
        fingerprint: Fingerprint,
        connector: Option<Properties>,
    ) -> Self {
        Self {
            format: FORMAT,
            id,
            at,
            fingerprint,
            connector,
        }
    }

    /// Parses a stored baseline.
    ///
    /// # Errors
    /// If it is malformed or has another format.
    pub fn read(value: &[u8]) -> Result<Self, RecordError> {
        read(Self::KEY, value)
    }

    /// Returns the text to store.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }
}

impl Changed {
    /// Key in the state topic.
    pub const KEY: &'static str = "source.changed";

    /// Returns a record without reasons for this baseline.
    #[must_use]
    pub fn since(baseline: &Baseline) -> Self {
        Self {
            format: FORMAT,
            baseline: baseline.id.clone(),
            reasons: Vec::new(),
        }
    }

    /// Parses a stored record.
    ///
    /// # Errors
    /// If it is malformed or has another format.
    pub fn read(value: &[u8]) -> Result<Self, RecordError> {
        read(Self::KEY, value)
    }

    /// Returns the text to store.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }

    /// Adds a reason unless an equal one is recorded. Returns whether it was added.
    pub fn add(&mut self, reason: Reason) -> bool {
        let is_same = |known: &Reason| {
            (known.code, &known.table, &known.what) == (reason.code, &reason.table, &reason.what)
        };
        let is_new = !self.reasons.iter().any(is_same);
        if is_new {
            self.reasons.push(reason);
        }
        is_new
    }
}

fn read<T: DeserializeOwned>(key: &'static str, value: &[u8]) -> Result<T, RecordError> {
    let malformed = |source| RecordError::Malformed { key, source };
    let FormatOnly { format } = serde_json::from_slice(value).map_err(malformed)?;
    if format != FORMAT {
        return Err(RecordError::Format { key, found: format });
    }
    serde_json::from_slice(value).map_err(malformed)
}

/// Serialises a record. Texts, numbers and maps of them always serialise.
fn text(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}
