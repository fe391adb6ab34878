//! The accepted events of the stub, in append-only files that a `kill -9` cannot damage, and an
//! index in memory with 48 bytes per event. Both are bounded: the oldest events are removed, a
//! file at a time.
//!
//! ```text
//! <folder>/events-1.log            the latest file, to which new events are appended
//!          events-1.<number>.log   a full file; the number of its first event
//! ```

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};

use super::{
    error,
    record::{Fingerprint, MAGIC, Posted, fingerprint},
    segment::{Piece, Segment},
};
use crate::{failure::Error, stack::files};

/// Name of the latest file without its extension. It contains the format.
const NAME: &str = "events-1";

/// Number of files that the kept events are spread over.
const SEGMENTS: u64 = 16;

/// Limits of the kept events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub events: u64,
    pub bytes: u64,
}

/// Result of posting an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The key was accepted before with the same body.
    Duplicate,
    /// The key was accepted before with another body.
    Conflict,
}

/// The files and their index.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    keep: Keep,
    /// Full files, oldest first.
    full: VecDeque<Segment>,
    /// The file to which new events are appended.
    latest: Segment,
    /// Fingerprint of the body and number of each event, by the fingerprint of its key.
    keys: HashMap<Fingerprint, (Fingerprint, u64)>,
}

impl Journal {
    /// Opens the files in `folder`, or creates one. Also returns the number of bytes of a
    /// partially written event that were cut off.
    ///
    /// # Errors
    /// If a file cannot be read or written, another stub uses it, or it is damaged elsewhere than
    /// at its end.
    pub fn open(folder: &Path, keep: Keep) -> Result<(Self, u64), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| error::unusable(&path, source)
        };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(folder).map_err(failed(folder))?;
        let mut keys = HashMap::new();
        let mut index = |seq, key, body| {
            keys.insert(key, (body, seq));
        };
        let mut full: VecDeque<Segment> = VecDeque::new();
        for (first, path) in full_files(folder).map_err(failed(folder))? {
            let segment = Segment::open(&path, first, &mut index)?;
            if full.back().is_some_and(|before| before.end() != first) {
                return Err(segment.damaged("the previous events are missing"));
            }
            full.push_back(segment);
        }
        let path = folder.join(format!("{NAME}.log"));
        let first = full.back().map_or(1, Segment::end);
        let latest = Segment::open(&path, first, &mut index)?;
        let torn = latest.cut_off().map_err(failed(&path))?;
        let mut journal = Self {
            folder: folder.to_owned(),
            keep,
            full,
            latest,
            keys,
        };
        journal.forget();
        Ok((journal, torn))
    }

    /// Returns the number of kept events.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.latest.end() - self.first()
    }

    /// Returns the number of the oldest kept event, or of the next event if none is kept.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.oldest().first
    }

    /// Returns the number of the latest event.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.latest.end() - 1
    }

    /// Returns the time by which all removed events were received, in microseconds since the
    /// epoch. Returns `None` if no event was removed.
    #[must_use]
    pub fn forgotten_until_us(&self) -> Option<i64> {
        self.oldest().begun_us.filter(|_| self.first() > 1)
    }

    fn oldest(&self) -> &Segment {
        self.full.front().unwrap_or(&self.latest)
    }

    /// Appends the event unless its key is known. The event is written when this returns, so a
    /// kill of the process does not lose it.
    ///
    /// # Errors
    /// If the file cannot be written. Nothing has changed then.
    pub fn accept(&mut self, posted: &Posted) -> io::Result<Accepted> {
        if let Some((body, _)) = self.keys.get(&posted.key) {
            return Ok(if *body == posted.body {
                Accepted::Duplicate
            } else {
                Accepted::Conflict
            });
        }
        let seq = self.latest.end();
        self.latest.append(posted)?;
        self.keys.insert(posted.key, (posted.body, seq));
        let is_full = self.latest.len() >= (self.keep.events / SEGMENTS).max(1)
            || self.latest.length >= self.keep.bytes / SEGMENTS;
        if is_full && self.rotate().is_ok() {
            self.forget();
        }
        Ok(Accepted::New)
    }

    /// Renames the latest file and creates a new one. If that fails, the latest file stays in
    /// use, and the next event retries.
    fn rotate(&mut self) -> io::Result<()> {
        let path = self.folder.join(format!("{NAME}.log"));
        let full_path = self
            .folder
            .join(format!("{NAME}.{}.log", self.latest.first));
        let new = self.folder.join(format!("{NAME}.new"));
        // Writing the new file first detects a full disk before anything is renamed.
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        files::open(&new, &mut options)?.write_all(MAGIC)?;
        fs::rename(&self.latest.path, &full_path)?;
        self.latest.path = full_path;
        fs::rename(&new, &path)?;
        let first = self.latest.end();
        let next = Segment::open(&path, first, |_, _, _| {}).map_err(io::Error::other)?;
        let full = std::mem::replace(&mut self.latest, next);
        self.full.push_back(full);
        Ok(())
    }

    /// Removes the oldest files while the remaining ones contain enough events. A file stays as
    /// long as it, the newer files and a full latest file are within the limits.
    fn forget(&mut self) {
        let enough = |limit: u64| limit - 2 * (limit / SEGMENTS);
        while let Some(oldest) = self.full.front() {
            let events = self.len() - oldest.len();
            let segments = self.full.iter().skip(1).chain([&self.latest]);
            let bytes: u64 = segments.map(|segment| segment.length).sum();
            if events < enough(self.keep.events) && bytes < enough(self.keep.bytes) {
                return;
            }
            // A file that cannot be removed is removed after the next start.
            let _ = fs::remove_file(&oldest.path);
            let end = oldest.end();
            self.keys.retain(|_, (_, seq)| *seq >= end);
            if self.keys.capacity() > 4 * self.keys.len() {
                self.keys.shrink_to_fit();
            }
            self.full.pop_front();
        }
    }

    /// Returns at most `limit` events after number `after`, oldest first.
    #[must_use]
    pub fn after(&self, after: u64, limit: usize) -> Vec<Piece> {
        let first = after.saturating_add(1).max(self.first());
        (first..self.latest.end())
            .take(limit)
            .filter_map(|seq| self.piece(seq))
            .collect()
    }

    /// Returns at most `limit` events, latest first.
    #[must_use]
    pub fn latest(&self, limit: usize) -> Vec<Piece> {
        (self.first()..self.latest.end())
            .rev()
            .take(limit)
            .filter_map(|seq| self.piece(seq))
            .collect()
    }

    /// Returns the event with this key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Option<Piece> {
        let (_, seq) = self.keys.get(&fingerprint(&Sha256::digest(key)))?;
        self.piece(*seq)
    }

    fn piece(&self, seq: u64) -> Option<Piece> {
        let index = self.full.partition_point(|segment| segment.end() <= seq);
        self.full.get(index).unwrap_or(&self.latest).piece(seq)
    }
}

/// Returns the full files and the numbers of their first events, oldest first.
fn full_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| {
            let name = name.to_str()?.strip_prefix(NAME)?.strip_prefix('.')?;
            name.strip_suffix(".log")?.parse().ok()
        });
        files.extend(number.map(|number| (number, path)));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::failure::Failure as _;

    const KEEP: Keep = Keep {
        events: 1_000,
        bytes: 1 << 20,
    };

    const FILE: &str = "events-1.log";

    fn fill(folder: &Path, events: &[(&str, &str)]) -> Journal {
        let (mut journal, _) = Journal::open(folder, KEEP).expect("a journal");
        for (key, body) in events {
            journal
                .accept(&Posted::new(key, body.as_bytes(), 1))
                .expect("written");
        }
        journal
    }

    fn reopened(folder: &Path) -> (Vec<(String, String)>, u64) {
        let (journal, torn) = Journal::open(folder, KEEP).expect("a journal");
        let pieces = journal.after(0, usize::MAX);
        let read = |piece: &Piece| piece.read().map(|stored| (stored.key, stored.body));
        let events = pieces.iter().map(read).collect::<Result<_, _>>();
        (events.expect("readable"), torn)
    }

    #[test]
    fn a_key_is_accepted_once_and_with_one_body() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = fill(folder.path(), &[("a", "{}")]);
        let repeated = |body: &str| Posted::new("a", body.as_bytes(), 2);
        let accepted = journal.accept(&repeated("{}")).unwrap();
        assert_eq!(accepted, Accepted::Duplicate);
        let accepted = journal.accept(&repeated("{ }")).unwrap();
        assert_eq!(accepted, Accepted::Conflict);
        assert_eq!(journal.len(), 1);
        drop(journal);
        let mut journal = fill(folder.path(), &[("b", "1")]);
        let accepted = journal.accept(&repeated("{}")).unwrap();
        assert_eq!(accepted, Accepted::Duplicate);
        let accepted = journal.accept(&repeated("[]")).unwrap();
        assert_eq!(accepted, Accepted::Conflict);
        let latest = journal.latest(1)[0].read().expect("readable");
        assert_eq!((latest.seq, latest.key.as_str()), (2, "b"));
        let found = journal.with_key("a").expect("known").read().expect("read");
        assert_eq!((found.seq, found.body.as_str()), (1, "{}"));
        assert_eq!(journal.latest(9).len(), 2);
        assert_eq!(journal.after(1, 9).len(), 1);
    }

    #[test]
    fn a_partial_record_of_any_length_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let events = [("a key", "{\n}"), ("b", "\"body\"")];
        drop(fill(folder.path(), &events));
        let path = folder.path().join(FILE);
        let complete = std::fs::read(&path).expect("the file");
        let written = reopened(folder.path()).0;
        assert_eq!(written.len(), 2);
        for length in 0..complete.len() {
            std::fs::write(&path, &complete[..length]).expect("cut");
            let (events, torn) = reopened(folder.path());
            assert!(events.len() < 2 && written.starts_with(&events), "{length}");
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
        let error = Journal::open(folder.path(), KEEP).expect_err("refused");
        assert!(error.to_string().contains("a body has changed"), "{error}");
    }

    #[test]
    fn two_stubs_do_not_share_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = fill(folder.path(), &[]);
        let error = Journal::open(folder.path(), KEEP).expect_err("refused");
        assert_eq!(error.code(), "stub_locked");
    }

    fn post(journal: &mut Journal, number: u64) -> Accepted {
        let received_us = i64::try_from(number).expect("small") * 1_000;
        let posted = Posted::new(&format!("key {number}"), b"{}", received_us);
        journal.accept(&posted).expect("written")
    }

    fn size_of(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let size = |entry: fs::DirEntry| entry.metadata().expect("there").len();
        entries.map(size).sum()
    }

    #[test]
    fn the_oldest_events_are_removed_and_the_latest_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = Keep {
            events: 160,
            bytes: 1 << 20,
        };
        let (mut journal, _) = Journal::open(folder.path(), keep).expect("a journal");
        assert_eq!(journal.forgotten_until_us(), None);
        for number in 1..=1_000 {
            assert_eq!(post(&mut journal, number), Accepted::New);
            assert!(journal.len() <= 160, "{}", journal.len());
            assert!(journal.keys.len() as u64 == journal.len());
        }
        assert!(journal.len() >= 140, "{}", journal.len());
        for file in fs::read_dir(folder.path()).expect("a folder").flatten() {
            assert_eq!(file.metadata().expect("there").mode() & 0o777, 0o600);
        }
        assert_eq!((journal.last(), journal.first()), (1_000, 861));
        assert_eq!(journal.forgotten_until_us(), Some(861_000));
        assert!(journal.with_key("key 860").is_none());
        assert_eq!(post(&mut journal, 861), Accepted::Duplicate);
        let pieces = journal.after(0, 3);
        let seqs: Vec<u64> = pieces
            .iter()
            .map(|piece| piece.read().expect("readable").seq)
            .collect();
        assert_eq!(seqs, [861, 862, 863]);
        drop((journal, pieces));
        let (mut journal, torn) = Journal::open(folder.path(), keep).expect("a journal");
        assert_eq!((journal.first(), journal.last(), torn), (861, 1_000, 0));
        assert_eq!(journal.forgotten_until_us(), Some(861_000));
        assert_eq!(post(&mut journal, 999), Accepted::Duplicate);
        assert_eq!(post(&mut journal, 1_001), Accepted::New);
    }

    #[test]
    fn the_size_of_the_files_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = Keep {
            events: 1_000_000,
            bytes: 16_000,
        };
        let (mut journal, _) = Journal::open(folder.path(), keep).expect("a journal");
        for number in 1..=2_000 {
            post(&mut journal, number);
            assert!(size_of(folder.path()) <= 17_000);
        }
        assert!(size_of(folder.path()) > 12_000);
    }

    #[test]
    fn a_large_file_is_kept_until_there_are_enough_newer_events() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = Journal::open(folder.path(), KEEP).expect("a journal");
        for number in 1..=50 {
            post(&mut journal, number);
        }
        drop(journal);
        let keep = Keep {
            events: 32,
            bytes: 1 << 20,
        };
        let (mut journal, _) = Journal::open(folder.path(), keep).expect("a journal");
        assert_eq!(post(&mut journal, 1), Accepted::Duplicate);
        for number in 51..=77 {
            post(&mut journal, number);
        }
        assert_eq!(post(&mut journal, 1), Accepted::Duplicate);
        for number in 78..=90 {
            post(&mut journal, number);
        }
        assert!(journal.first() > 50 && journal.len() <= 32);
    }

    #[test]
    fn a_missing_file_between_others_is_detected() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = Keep {
            events: 160,
            bytes: 1 << 20,
        };
        let (mut journal, _) = Journal::open(folder.path(), keep).expect("a journal");
        for number in 1..=45 {
            post(&mut journal, number);
        }
        drop(journal);
        fs::remove_file(folder.path().join("events-1.11.log")).expect("removed");
        let error = Journal::open(folder.path(), keep).expect_err("refused");
        assert!(error.to_string().contains("are missing"), "{error}");
    }

    proptest! {
        #[test]
        fn the_latest_events_are_in_order_after_any_restarts(
            runs in proptest::collection::vec(0_u64..40, 1..8),
            events in 1_u64..60,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let keep = Keep { events, bytes: 1 << 20 };
            let mut number = 0;
            for count in runs {
                let (mut journal, _) = Journal::open(folder.path(), keep).expect("a journal");
                prop_assert_eq!(journal.last(), number);
                for _ in 0..count {
                    number += 1;
                    prop_assert_eq!(post(&mut journal, number), Accepted::New);
                }
                let pieces = journal.after(0, usize::MAX);
                let keys: Vec<String> = pieces
                    .iter()
                    .map(|piece| piece.read().expect("readable").key)
                    .collect();
                let expected: Vec<String> = (journal.first()..=number)
                    .map(|number| format!("key {number}"))
                    .collect();
                prop_assert_eq!(keys, expected);
                prop_assert!(journal.len() <= events.max(2));
                prop_assert!(journal.len() >= number.min(events - events / 8 - events.min(8) / 8));
            }
        }
    }
}
