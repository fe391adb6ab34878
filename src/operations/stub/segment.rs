//! A file of events, with the offset of each event.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    error,
    record::{Fingerprint, MAGIC, Posted, Reading, Record, Stored},
};
use crate::{failure::Error, stack::files};

/// A file of events.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    file: Arc<Flock<File>>,
    /// Number of the file's first event.
    pub first: u64,
    /// Length of the complete records, in bytes.
    pub length: u64,
    /// Start offset of each record.
    starts: Vec<u64>,
    /// When the file's first event was received, in microseconds since the epoch.
    pub begun_us: Option<i64>,
}

/// A record in a file. It can be read while the file is appended to, and after the file was
/// removed.
#[derive(Debug)]
pub struct Piece {
    file: Arc<Flock<File>>,
    start: u64,
    end: u64,
    seq: u64,
}

impl Segment {
    /// Opens or creates a file. Calls `index` with the number of each event and the fingerprints
    /// of its key and body.
    ///
    /// # Errors
    /// If the file cannot be read or written, another stub uses it, or it is damaged elsewhere
    /// than at its end.
    pub fn open(
        path: &Path,
        first: u64,
        mut index: impl FnMut(u64, Fingerprint, Fingerprint),
    ) -> Result<Self, Error> {
        let failed = |source| error::unusable(path, source);
        let mut options = File::options();
        options.read(true).append(true).create(true);
        let file = files::open(path, &mut options).map_err(failed)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let file = file.map_err(|_| error::locked(path))?;
        let mut segment = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            first,
            length: 0,
            starts: Vec::new(),
            begun_us: None,
        };
        let has_header = segment.recover(&mut index)?;
        if !has_header {
            segment.file.set_len(0).map_err(failed)?;
            (&**segment.file).write_all(MAGIC).map_err(failed)?;
            segment.length = MAGIC.len() as u64;
        }
        Ok(segment)
    }

    /// Returns the number of events.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Returns the number after the last event's.
    pub fn end(&self) -> u64 {
        self.first + self.len()
    }

    /// Cuts off a record that was partially written when the stub was killed. Its client has
    /// received no response. Returns the number of bytes that were cut off.
    ///
    /// # Errors
    /// If the file cannot be changed.
    pub fn cut_off(&self) -> io::Result<u64> {
        let size = self.file.metadata()?.len();
        self.file.set_len(self.length)?;
        Ok(size.saturating_sub(self.length))
    }

    /// Appends an event. The event is written when this returns, so a kill of the process does
    /// not lose it.
    ///
    /// # Errors
    /// If the file cannot be written. Nothing has changed then.
    pub fn append(&mut self, posted: &Posted) -> io::Result<()> {
        if let Err(error) = (&**self.file).write_all(&posted.record) {
            // A partial record must not remain between complete ones.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.add(posted.record.len() as u64, posted.received_us);
        Ok(())
    }

    /// Returns the event with this number, or `None` if it is not in this file.
    pub fn piece(&self, seq: u64) -> Option<Piece> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        Some(Piece {
            file: Arc::clone(&self.file),
            start: *self.starts.get(index)?,
            end: self.starts.get(index + 1).copied().unwrap_or(self.length),
            seq,
        })
    }

    fn add(&mut self, size: u64, received_us: i64) {
        self.starts.push(self.length);
        self.length += size;
        self.begun_us.get_or_insert(received_us);
    }

    /// Reads the file from its start to its end or to a partial record. Returns false if the
    /// file has no complete first line.
    fn recover(
        &mut self,
        index: &mut impl FnMut(u64, Fingerprint, Fingerprint),
    ) -> Result<bool, Error> {
        let file = Arc::clone(&self.file);
        let mut reader = BufReader::with_capacity(1 << 20, &**file);
        let mut magic = Vec::new();
        (&mut reader)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(|source| error::unusable(&self.path, source))?;
        if magic != MAGIC {
            return if MAGIC.starts_with(&magic) {
                Ok(false)
            } else {
                Err(self.damaged("not a file of a stub"))
            };
        }
        self.length = MAGIC.len() as u64;
        let mut record = Record::default();
        loop {
            let read = record.read(&mut reader);
            match read.map_err(|source| error::unusable(&self.path, source))? {
                Reading::Whole => {
                    let (key, body) = record.fingerprints();
                    index(self.end(), key, body);
                    self.add(record.size, record.received_us);
                }
                Reading::End => return Ok(true),
                Reading::Damaged(reason) => return Err(self.damaged(reason)),
            }
        }
    }

    /// Returns the error for a damaged file.
    pub fn damaged(&self, reason: &str) -> Error {
        error::damaged(&self.path, self.length, reason)
    }
}

impl Piece {
    /// Returns the record's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Reads the event.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> io::Result<Stored> {
        let mut bytes = vec![0; usize::try_from(self.size()).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.start)?;
        let mut record = Record::default();
        match record.read(&mut bytes.as_slice())? {
            Reading::Whole => record.stored(self.seq),
            _ => Err(io::Error::other(
                "the record was changed by another process",
            )),
        }
    }
}
