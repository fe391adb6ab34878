//! One file of events and where each of them is in it.

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

/// A file that is appended to, or was.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    file: Arc<Flock<File>>,
    /// The number of its first event.
    pub first: u64,
    /// Bytes of whole records.
    pub length: u64,
    /// Where each record begins.
    starts: Vec<u64>,
    /// When its first event was received.
    pub begun_us: Option<i64>,
}

/// A piece of a file that can be read while more is appended, and though the
/// file is removed.
#[derive(Debug)]
pub struct Piece {
    file: Arc<Flock<File>>,
    start: u64,
    end: u64,
    seq: u64,
}

impl Segment {
    /// Opens a file, or begins one. `index` is called with the key and the body
    /// of each event.
    ///
    /// # Errors
    /// When the file cannot be read or written, another stub has it, or it is
    /// damaged anywhere but at its end.
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
        let begun = segment.recover(&mut index)?;
        if !begun {
            segment.file.set_len(0).map_err(failed)?;
            (&**segment.file).write_all(MAGIC).map_err(failed)?;
            segment.length = MAGIC.len() as u64;
        }
        Ok(segment)
    }

    /// How many events there are.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// The number after that of its last event.
    pub fn end(&self) -> u64 {
        self.first + self.len()
    }

    /// Cuts off what was being written when the stub was killed: nobody was
    /// told that it was accepted. Returns its bytes.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub fn cut_off(&self) -> io::Result<u64> {
        let size = self.file.metadata()?.len();
        self.file.set_len(self.length)?;
        Ok(size.saturating_sub(self.length))
    }

    /// Appends an event. It has been written when this returns: a kill of the
    /// process does not lose it.
    ///
    /// # Errors
    /// When the file does not take it; then nothing has changed.
    pub fn append(&mut self, posted: &Posted) -> io::Result<()> {
        if let Err(error) = (&**self.file).write_all(&posted.record) {
            // Half a record must not stay between whole ones.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.add(posted.record.len() as u64, posted.received_us);
        Ok(())
    }

    /// The event of this number, where it is here.
    pub fn piece(&self, seq: u64) -> Option<Piece> {
        let place = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        Some(Piece {
            file: Arc::clone(&self.file),
            start: *self.starts.get(place)?,
            end: self.starts.get(place + 1).copied().unwrap_or(self.length),
            seq,
        })
    }

    fn add(&mut self, size: u64, received_us: i64) {
        self.starts.push(self.length);
        self.length += size;
        self.begun_us.get_or_insert(received_us);
    }

    /// Reads the file from its start, up to its end or to a torn record. Says
    /// whether it has a first line.
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
                Err(self.damaged("it is no log of a stub's events"))
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

    /// The error of a file that is not as it was written.
    pub fn damaged(&self, reason: &str) -> Error {
        error::damaged(&self.path, self.length, reason)
    }
}

impl Piece {
    /// Its bytes in the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Stored> {
        let mut bytes = vec![0; usize::try_from(self.size()).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.start)?;
        let mut record = Record::default();
        match record.read(&mut bytes.as_slice())? {
            Reading::Whole => record.stored(self.seq),
            _ => Err(io::Error::other("the record has changed under the stub")),
        }
    }
}
