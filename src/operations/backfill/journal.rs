//! How far a backfill is, in a file beside the project's state: killed at any
//! moment, the same command goes on from there.
//!
//! ```text
//! <home>/<project>/backfill.json   format 1; gone when the backfill is done
//!                  backfill.lock   held by whoever is at work
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

/// A backfill that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// What was asked for, in one fixed form.
    pub request: String,
    /// The life of the events' topic that the offsets are of.
    pub topic: String,
    /// RFC 3339.
    pub begun: String,
    /// Microseconds since the epoch; none is as far back as there is anything.
    pub from_us: Option<i64>,
    /// The first moment after it.
    pub to_us: Option<i64>,
    /// By sink, what is replayed of each partition.
    pub replays: BTreeMap<SinkKind, Vec<Part>>,
    /// How far a backfill from the source is.
    pub database: Option<Database>,
}

/// How far a backfill from the source is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The generations it has begun, of the events and of the content.
    pub lives: Option<(u16, u16)>,
    /// Where the events' topic ended when it began, by partition.
    pub starts: Option<Vec<i64>>,
    /// The source as it was before the snapshot: what is altered from then on
    /// may be missing. None in journals of before this was kept.
    #[serde(default)]
    pub source: Option<Fingerprint>,
    /// The id of the signal that asked for the snapshot.
    pub signal: Option<String>,
    /// The notifications of it are from here on.
    pub notifications_from: i64,
    /// The snapshot is in the log, with so many rows.
    pub snapshot_rows: Option<u64>,
    /// ClickHouse has had all of it.
    pub caught_up: bool,
    /// The last id that was compared.
    pub pruned_to: Option<i64>,
    pub pruned: u64,
    pub pruned_content: u64,
    /// Every id was compared.
    pub pruned_all: bool,
}

/// Where a project's journal is.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

/// Only the number, to tell another format before reading it as this one.
#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

impl Journal {
    /// A backfill that has done nothing yet.
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

    /// Its times, as times of events.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            from_us: self.from_us,
            to_us: self.to_us,
        }
    }
}

impl Place {
    /// The journal of the project in this folder.
    #[must_use]
    pub fn of(dir: &ProjectDir) -> Self {
        Self(dir.path().join("backfill.json"))
    }

    /// Holds the project's backfills, so that there is one at a time.
    ///
    /// # Errors
    /// When another process is at one, or the folder cannot be made.
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

    /// The unfinished backfill, where there is one.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
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
            return Err(malformed(format!("it is of format {found}, not {FORMAT}")));
        }
        let journal = serde_json::from_str(&text);
        journal.map_err(|error| malformed(error.to_string()))
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn save(&self, journal: &Journal) -> io::Result<()> {
        write_atomically(&self.0, &serde_json::to_vec_pretty(journal)?)
    }

    /// Forgets it: the backfill is done.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self) -> Result<(), BackfillError> {
        match fs::remove_file(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.unreachable(source))
            }
            _ => Ok(()),
        }
    }

    /// The error of a file that cannot be reached.
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
        let place = Place::of(&Home::at(folder.path()).project(&Project::default()));
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
