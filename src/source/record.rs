//! The two records that outlive every process: the fingerprint of the source
//! as it was when history was last known to be complete, and what has been
//! seen since that no fingerprint keeps.
//!
//! ```text
//! source.baseline   format 1   written at the first start and by a reconcile
//! source.changed    format 1   holds for the baseline that it names
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Code, Fingerprint, Properties};

/// Format of both records.
const FORMAT: u16 = 1;

/// The source when history was last known to be complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    format: u16,
    /// Another one after every reconcile.
    pub id: String,
    /// When that was, RFC 3339.
    pub at: String,
    pub fingerprint: Fingerprint,
    /// What fanout last configured the connector with, as
    /// [`super::relevant`] has it; none where nobody could ask Connect.
    pub connector: Option<Properties>,
}

/// What has been seen since a baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    format: u16,
    /// The baseline's id. Under another one this no longer counts.
    pub baseline: String,
    pub reasons: Vec<Reason>,
}

/// Why history may not be complete any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: Code,
    /// The table concerned; none concerns all.
    pub table: Option<String>,
    pub what: String,
    /// When it was first seen, RFC 3339.
    pub at: String,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{key} has format {found}, and this program knows format {FORMAT}")]
    Format { key: &'static str, found: u16 },
    #[error("{key} cannot be understood")]
    Malformed {
        key: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

/// Only the number, to tell another format before reading it as this one.
#[derive(Deserialize)]
struct Formatted {
    format: u16,
}

impl Baseline {
    /// Its key in the state topic.
    pub const KEY: &'static str = "source.baseline";

    /// A baseline of this moment.
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

    /// Reads it.
    ///
    /// # Errors
    /// When it is of another format, or none.
    pub fn read(value: &[u8]) -> Result<Self, RecordError> {
        read(Self::KEY, value)
    }

    /// As it is stored.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }
}

impl Changed {
    /// Its key in the state topic.
    pub const KEY: &'static str = "source.changed";

    /// Nothing seen yet.
    #[must_use]
    pub fn since(baseline: &Baseline) -> Self {
        Self {
            format: FORMAT,
            baseline: baseline.id.clone(),
            reasons: Vec::new(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is of another format, or none.
    pub fn read(value: &[u8]) -> Result<Self, RecordError> {
        read(Self::KEY, value)
    }

    /// As it is stored.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }

    /// Adds a reason, unless there is one like it. Returns whether it is news.
    pub fn add(&mut self, reason: Reason) -> bool {
        let same = |known: &Reason| {
            (known.code, &known.table, &known.what) == (reason.code, &reason.table, &reason.what)
        };
        let is_new = !self.reasons.iter().any(same);
        if is_new {
            self.reasons.push(reason);
        }
        is_new
    }
}

fn read<T: DeserializeOwned>(key: &'static str, value: &[u8]) -> Result<T, RecordError> {
    let malformed = |source| RecordError::Malformed { key, source };
    let Formatted { format } = serde_json::from_slice(value).map_err(malformed)?;
    if format != FORMAT {
        return Err(RecordError::Format { key, found: format });
    }
    serde_json::from_slice(value).map_err(malformed)
}

/// Texts, numbers and maps of them always serialise.
fn text(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}
