//! The progress of a backfill, stored in a file beside the project's state. After a kill at any
//! time, the same command resumes from there.
//!
//! ```text
//! <home>/<project>/backfill.json   format 1; removed when the backfill is done
//!                  backfill.lock   locked while a backfill runs
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::BackfillError;
use crate::{
    runtime::replay::Part,
    sink_kind::SinkKind,
    sinks::clickhouse::Times,
    source::checks::Fingerprint,
    stack::{Lock, ProjectDir, files::write_atomically},
};

/// Format of the file that this program writes and reads.
const FORMAT: u32 = 1;

/// An unfinished backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// The request, in a fixed form.
    pub request: String,
    /// Incarnation of the events topic that the offsets belong to.
    pub topic: String,
    /// Start time, in RFC 3339.
    pub begun: String,
    /// Start of the time range, in microseconds since the epoch. `None` means the earliest
    /// record or row.
    pub from_us: Option<i64>,
    /// Exclusive end of the time range, in microseconds since the epoch. `None` means now.
    pub to_us: Option<i64>,
    /// Offset ranges to replay by sink, one per partition.
    pub replays: BTreeMap<SinkKind, Vec<Part>>,
    /// Progress of a backfill from the source.
    pub database: Option<Database>,
}

/// Progress of a backfill from the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Generations that the backfill has started, of the events and of the content.
    pub lives: Option<(u16, u16)>,
    /// End offsets of the events topic when the backfill started, by partition.
    pub starts: Option<Vec<i64>>,
    /// Fingerprint of the source before the snapshot. Changes from later alterations may be
    /// missing. `None` in a journal of an earlier version.
    #[serde(default)]
    pub source: Option<Fingerprint>,
    /// Id of the signal that requests the snapshot.
    pub signal: Option<String>,
    /// First offset that can contain a notification of the snapshot.
    pub notifications_from: i64,
    /// Number of rows of the snapshot, once all of them are in the log.
    pub snapshot_rows: Option<u64>,
    /// Whether ClickHouse has received the complete snapshot.
    pub caught_up: bool,
    /// Last id that was compared.
    pub pruned_to: Option<i64>,
    pub pruned: u64,
    pub pruned_content: u64,
    /// Whether all ids were compared.
    pub pruned_all: bool,
}

/// Path of a project's journal.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

/// The format number alone, to recognise another format before parsing the rest.
#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

impl Journal {
    /// Creates the journal of a new backfill.
    #[must_use]
    pub fn new(request: String, topic: String, begun: String) -> Self {
        Self {
            format: FORMAT,
            request,
            topic,
            begun,
            from_us: None,
            to_us: None,
            replays: BTreeMap::new(),
            database: None,
        }
    }

    /// Returns the time range, as times of events.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            from_us: self.from_us,
            to_us: self.to_us,
        }
    }
}

impl Place {
    /// Returns the journal's path in the project's folder.
    #[must_use]
    pub fn new(dir: &ProjectDir) -> Self {
        Self(dir.path().join("backfill.json"))
    }

    /// Locks the project's backfills, so that only one runs at a time.
    ///
    /// # Errors
    /// If another process runs a backfill, or the folder cannot be created.
    pub fn lock(&self) -> Result<Lock, BackfillError> {
        let path = self.0.with_extension("lock");
        match Lock::try_at(&path) {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(holder)) => Err(BackfillError::Busy {
                project: self.project(),
                holder,
            }),
            Err(source) => Err(BackfillError::Journal { path, source }),
        }
    }

    fn project(&self) -> String {
        let folder = self.0.parent().and_then(Path::file_name);
        folder.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Returns the unfinished backfill, or `None` if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn load(&self) -> Result<Option<Journal>, BackfillError> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.unreachable(source)),
        };
        let malformed = |reason: String| BackfillError::Malformed {
            path: self.0.clone(),
            reason,
        };
        let formatted: Formatted =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if formatted.format != FORMAT {
            let found = formatted.format;
            return Err(malformed(format!("format {found}, expected {FORMAT}")));
        }
        let journal = serde_json::from_str(&text);
        journal.map_err(|error| malformed(error.to_string()))
    }

    /// Writes the journal atomically.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, journal: &Journal) -> io::Result<()> {
        write_atomically(&self.0, &serde_json::to_vec_pretty(journal)?)
    }

    /// Removes the journal of a finished backfill.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(&self) -> Result<(), BackfillError> {
        match fs::remove_file(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.unreachable(source))
            }
            _ => Ok(()),
        }
    }

    /// Returns the error for a file that cannot be accessed.
    #[must_use]
    pub fn unreachable(&self, source: io::Error) -> BackfillError {
        BackfillError::Journal {
            path: self.0.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::project::Project, failure::Failure as _, stack::Home};

    #[test]
    fn a_journal_is_read_as_it_was_written_and_another_format_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place::new(&Home::at(folder.path()).project(&Project::default()));
        let lock = place.lock().expect("free");
        assert_eq!(place.lock().expect_err("held").code(), "backfill_locked");
        drop(lock);
        assert_eq!(place.load().expect("none"), None);
        let mut journal = Journal::new("x".to_owned(), "t/3".to_owned(), "now".to_owned());
        journal.replays.insert(SinkKind::Http, Vec::new());
        let parts = vec![Part::new(0, 1, 5)];
        journal.replays.insert(SinkKind::ClickHouse, parts);
        let replays = serde_json::to_string(&journal.replays).expect("plain data");
        assert_eq!(
            replays,
            r#"{"clickhouse":[{"partition":0,"from":1,"until":5,"next":1,"metadata":null,"done":false}],"http":[]}"#
        );
        place.save(&journal).expect("saved");
        assert_eq!(place.load().expect("read"), Some(journal.clone()));
        journal.format = 2;
        place.save(&journal).expect("saved");
        let error = place.load().expect_err("another format");
        assert!(error.to_string().contains("format 2"), "{error}");
        place.remove().expect("removed");
        place.remove().expect("removed already");
    }
}
