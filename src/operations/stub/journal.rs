//! What the stub has accepted, in one append-only file that a `kill -9` cannot
//! spoil, and an index of it in memory: 48 bytes an event, whatever its size.
//!
//! The file begins with [`MAGIC`]; then, for each event, a line `<received,
//! microseconds since the epoch> <sha-256 of the body> <bytes> <key>` and the
//! body with a line feed.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::HashMap;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

/// The name of the file; it carries the format.
const FILE: &str = "events-1.log";

/// The first line of the file.
const MAGIC: &[u8] = b"fanout-stub 1\n";

/// The longest line before a body: key and numbers.
const MAX_LINE: u64 = 1024;

/// The longest key.
pub const MAX_KEY: usize = 255;

/// Half of a SHA-256: enough that two texts never share one.
type Fingerprint = [u8; 16];

/// An event on its way in, hashed and laid out before anything is locked.
#[derive(Debug)]
pub struct Posted {
    key: Fingerprint,
    body: Fingerprint,
    record: Vec<u8>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The key came before with the same body.
    Duplicate,
    /// The key came before with another body.
    Conflict,
}

/// An event as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of acceptance, from 1.
    pub seq: u64,
    /// Microseconds since the epoch.
    pub received_us: i64,
    /// Of the body, in hexadecimal.
    pub sha256: String,
    pub key: String,
    pub body: String,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another stub", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged at byte {at}: {reason}", path.display())]
    Damaged {
        path: PathBuf,
        at: u64,
        reason: &'static str,
    },
}

/// The file and its index.
#[derive(Debug)]
pub struct Journal {
    file: Arc<Flock<File>>,
    /// Bytes of whole records.
    length: u64,
    /// Where each record begins, by its place in the order.
    starts: Vec<u64>,
    keys: HashMap<Fingerprint, (Fingerprint, u64)>,
}

/// A piece of the file that can be read while more is appended.
#[derive(Debug)]
pub struct Piece {
    file: Arc<Flock<File>>,
    start: u64,
    end: u64,
    seq: u64,
}

impl Posted {
    /// Hashes and lays out an event. The key has at most [`MAX_KEY`] bytes and
    /// no line feed.
    #[must_use]
    pub fn new(key: &str, body: &[u8], received_us: i64) -> Self {
        let digest = Sha256::digest(body);
        let mut record = Vec::with_capacity(body.len() + key.len() + 100);
        let line = format!("{received_us} {} {} {key}\n", hex(&digest), body.len());
        record.extend_from_slice(line.as_bytes());
        record.extend_from_slice(body);
        record.push(b'\n');
        Self {
            key: fingerprint(&Sha256::digest(key)),
            body: fingerprint(&digest),
            record,
        }
    }
}

impl Journal {
    /// Opens the file in `folder`, or begins one. The end of a record that was
    /// being written when the stub was killed is cut off: nobody was told that
    /// it was accepted. Gives the bytes that were cut off, too.
    ///
    /// # Errors
    /// When the file cannot be read or written, another stub has it, or it is
    /// damaged anywhere but at its end.
    pub fn open(folder: &Path) -> Result<(Self, u64), JournalError> {
        let path = folder.join(FILE);
        let failed = |source| JournalError::Io {
            path: path.clone(),
            source,
        };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| JournalError::Locked { path: path.clone() })?;
        let size = file.metadata().map_err(failed)?.len();
        let mut journal = Self {
            file: Arc::new(file),
            length: 0,
            starts: Vec::new(),
            keys: HashMap::new(),
        };
        journal.recover(&path)?;
        let torn = size - journal.length;
        journal.file.set_len(journal.length).map_err(failed)?;
        if journal.length == 0 {
            (&**journal.file).write_all(MAGIC).map_err(failed)?;
            journal.length = MAGIC.len() as u64;
        }
        Ok((journal, torn))
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Appends the event unless its key is known. It has been written when
    /// this returns: a kill of the process does not lose it.
    ///
    /// # Errors
    /// When the file does not take it; then nothing has changed.
    pub fn accept(&mut self, posted: &Posted) -> io::Result<Accepted> {
        if let Some((body, _)) = self.keys.get(&posted.key) {
            return Ok(if *body == posted.body {
                Accepted::Duplicate
            } else {
                Accepted::Conflict
            });
        }
        if let Err(error) = (&**self.file).write_all(&posted.record) {
            // Half a record must not stay between whole ones.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.index(posted.key, posted.body, posted.record.len() as u64);
        Ok(Accepted::New)
    }

    /// The events behind `after`, oldest first, at most `limit`.
    #[must_use]
    pub fn after(&self, after: u64, limit: usize) -> Vec<Piece> {
        let last = self.len().min(after.saturating_add(limit as u64));
        (after.saturating_add(1)..=last)
            .filter_map(|seq| self.piece(seq))
            .collect()
    }

    /// The latest events, latest first, at most `limit`.
    #[must_use]
    pub fn latest(&self, limit: usize) -> Vec<Piece> {
        let first = self.len().saturating_sub(limit as u64) + 1;
        (first..=self.len())
            .rev()
            .filter_map(|seq| self.piece(seq))
            .collect()
    }

    /// The event of this key.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<Piece> {
        let (_, seq) = self.keys.get(&fingerprint(&Sha256::digest(key)))?;
        self.piece(*seq)
    }

    fn piece(&self, seq: u64) -> Option<Piece> {
        let place = usize::try_from(seq.checked_sub(1)?).ok()?;
        Some(Piece {
            file: Arc::clone(&self.file),
            start: *self.starts.get(place)?,
            end: self.starts.get(place + 1).copied().unwrap_or(self.length),
            seq,
        })
    }

    fn index(&mut self, key: Fingerprint, body: Fingerprint, size: u64) {
        self.starts.push(self.length);
        self.keys.insert(key, (body, self.len()));
        self.length += size;
    }

    /// Reads the file from its start, up to its end or to a torn record.
    fn recover(&mut self, path: &Path) -> Result<(), JournalError> {
        let file = Arc::clone(&self.file);
        let mut reader = BufReader::with_capacity(1 << 20, &**file);
        let mut magic = Vec::new();
        let failed = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        (&mut reader)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(failed)?;
        if magic != MAGIC {
            return if MAGIC.starts_with(&magic) {
                Ok(())
            } else {
                Err(damaged(path, 0, "it is no log of a stub's events"))
            };
        }
        self.length = MAGIC.len() as u64;
        let mut record = Record::default();
        loop {
            match record.read(&mut reader).map_err(failed)? {
                Reading::Whole => {
                    let (key, body) = record.fingerprints();
                    self.index(key, body, record.size);
                }
                Reading::End => return Ok(()),
                Reading::Damaged(reason) => return Err(damaged(path, self.length, reason)),
            }
        }
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
            Reading::Whole => Ok(Stored {
                seq: self.seq,
                received_us: record.received_us,
                sha256: hex(&record.sha256),
                key: record.key,
                body: String::from_utf8(record.body).map_err(io::Error::other)?,
            }),
            _ => Err(io::Error::other("the record has changed under the stub")),
        }
    }
}

/// One record as it is read; its buffers are used again.
#[derive(Debug, Default)]
struct Record {
    line: Vec<u8>,
    body: Vec<u8>,
    received_us: i64,
    sha256: [u8; 32],
    key: String,
    size: u64,
}

enum Reading {
    Whole,
    /// Nothing more, or a torn record.
    End,
    Damaged(&'static str),
}

impl Record {
    fn read(&mut self, reader: &mut impl io::BufRead) -> io::Result<Reading> {
        self.line.clear();
        reader.take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        if self.line.pop() != Some(b'\n') {
            return Ok(if (self.line.len() as u64) < MAX_LINE - 1 {
                Reading::End
            } else {
                Reading::Damaged("a line is too long")
            });
        }
        let Some(length) = self.parse_line() else {
            return Ok(Reading::Damaged("a line is not of this format"));
        };
        self.body.clear();
        let whole = length + 1;
        if reader.take(whole).read_to_end(&mut self.body)? as u64 != whole {
            return Ok(Reading::End);
        }
        if self.body.pop() != Some(b'\n') {
            return Ok(Reading::Damaged("a body is longer than its line says"));
        }
        let digest: [u8; 32] = Sha256::digest(&self.body).into();
        if digest != self.sha256 {
            return Ok(Reading::Damaged("a body has changed"));
        }
        self.size = self.line.len() as u64 + 1 + whole;
        Ok(Reading::Whole)
    }

    /// Reads the line; gives the body's length.
    fn parse_line(&mut self) -> Option<u64> {
        let line = std::str::from_utf8(&self.line).ok()?;
        let mut words = line.splitn(4, ' ');
        self.received_us = words.next()?.parse().ok()?;
        let digest = words.next()?;
        for (byte, at) in self.sha256.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(digest.get(at..at + 2)?, 16).ok()?;
        }
        let length = words.next()?.parse().ok()?;
        words.next()?.clone_into(&mut self.key);
        Some(length)
    }

    fn fingerprints(&self) -> (Fingerprint, Fingerprint) {
        (
            fingerprint(&Sha256::digest(&self.key)),
            fingerprint(&self.sha256),
        )
    }
}

fn damaged(path: &Path, at: u64, reason: &'static str) -> JournalError {
    JournalError::Damaged {
        path: path.to_owned(),
        at,
        reason,
    }
}

fn fingerprint(digest: &[u8]) -> Fingerprint {
    let mut half = Fingerprint::default();
    half.iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = *from);
    half
}

fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    digest
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(folder: &Path, events: &[(&str, &str)]) -> Journal {
        let (mut journal, _) = Journal::open(folder).expect("a journal");
        for (key, body) in events {
            journal
                .accept(&Posted::new(key, body.as_bytes(), 1))
                .expect("written");
        }
        journal
    }

    fn reopened(folder: &Path) -> (Vec<(String, String)>, u64) {
        let (journal, torn) = Journal::open(folder).expect("a journal");
        let pieces = journal.after(0, usize::MAX);
        let read = |piece: &Piece| piece.read().map(|stored| (stored.key, stored.body));
        let events = pieces.iter().map(read).collect::<Result<_, _>>();
        (events.expect("readable"), torn)
    }

    #[test]
    fn a_key_is_accepted_once_and_with_one_body() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = fill(folder.path(), &[("a", "{}")]);
        let again = |body: &str| Posted::new("a", body.as_bytes(), 2);
        assert_eq!(journal.accept(&again("{}")).unwrap(), Accepted::Duplicate);
        assert_eq!(journal.accept(&again("{ }")).unwrap(), Accepted::Conflict);
        assert_eq!(journal.len(), 1);
        drop(journal);
        let mut journal = fill(folder.path(), &[("b", "1")]);
        assert_eq!(journal.accept(&again("{}")).unwrap(), Accepted::Duplicate);
        assert_eq!(journal.accept(&again("[]")).unwrap(), Accepted::Conflict);
        let latest = journal.latest(1)[0].read().expect("readable");
        assert_eq!((latest.seq, latest.key.as_str()), (2, "b"));
        let found = journal.of_key("a").expect("known").read().expect("read");
        assert_eq!((found.seq, found.body.as_str()), (1, "{}"));
        assert_eq!(journal.latest(9).len(), 2);
        assert_eq!(journal.after(1, 9).len(), 1);
    }

    #[test]
    fn a_torn_end_of_any_length_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let events = [("a key", "{\n}"), ("b", "\"body\"")];
        drop(fill(folder.path(), &events));
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).expect("the file");
        let first = reopened(folder.path()).0;
        assert_eq!(first.len(), 2);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("cut");
            let (events, torn) = reopened(folder.path());
            assert!(events.len() < 2 && first.starts_with(&events), "{length}");
            let kept = std::fs::metadata(&path).expect("the file").len();
            assert!(kept >= MAGIC.len() as u64 && torn <= length as u64);
            drop(fill(folder.path(), &[("c", "3")]));
            assert_eq!(reopened(folder.path()).0.len(), events.len() + 1);
        }
    }

    #[test]
    fn damage_in_the_middle_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(fill(folder.path(), &[("a", "\"first\""), ("b", "2")]));
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("the file");
        let at = bytes
            .windows(5)
            .position(|word| word == b"first")
            .expect("there");
        bytes[at] = b'F';
        std::fs::write(&path, bytes).expect("changed");
        let error = Journal::open(folder.path()).expect_err("refused");
        assert!(error.to_string().contains("a body has changed"), "{error}");
    }

    #[test]
    fn two_stubs_do_not_share_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = fill(folder.path(), &[]);
        let error = Journal::open(folder.path()).expect_err("refused");
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    }
}
