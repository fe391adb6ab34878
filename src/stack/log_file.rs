//! A log in a bounded number of files of a bounded size: `redis.log`, and what
//! was written before it in `redis.log.1`, `redis.log.2` and so on.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::files;

/// A file may be longer than it should by this, so that no line is cut in two.
const SLACK: u64 = 64 * 1024;

/// Whether the file is still the one under its name is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Files of a larger limit before that are looked for up to this number.
pub const MOST_FILES: u32 = 1_000;

/// A log and its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    pub path: PathBuf,
    /// Bytes of each file.
    pub max_bytes: u64,
    /// Files, with the one that is written.
    pub max_files: u32,
}

/// The file that was written so many files ago.
#[must_use]
pub fn earlier(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The files that there are, the latest first.
#[must_use]
pub fn existing(path: &Path) -> Vec<PathBuf> {
    // The latest may be missing while they are renamed.
    let earlier = (1..MOST_FILES)
        .map(|number| earlier(path, number))
        .take_while(|path| path.exists());
    let latest = path.exists().then(|| path.to_owned());
    latest.into_iter().chain(earlier).collect()
}

/// Writes a log and keeps its bounds, whatever happens to its files.
#[derive(Debug)]
pub struct Rotating {
    log: LogFile,
    file: File,
    size: u64,
    /// Whether the file ends with a whole line.
    at_line_end: bool,
    /// Bytes that the disk did not take.
    lost: u64,
    looked: Instant,
}

impl Rotating {
    /// Opens the log to append to it. Files beyond its bounds are removed.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(log: LogFile) -> io::Result<Self> {
        for number in log.max_files..MOST_FILES {
            if fs::remove_file(earlier(&log.path, number)).is_err() {
                break;
            }
        }
        let mut file = open(&log.path)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self {
            log,
            file,
            size,
            at_line_end: last == [b'\n'],
            lost: 0,
            looked: Instant::now(),
        })
    }

    /// Appends bytes. Whoever wrote them does not wait for a disk that is full:
    /// what it does not take is counted, and reported once it takes more.
    pub fn write(&mut self, mut bytes: &[u8]) {
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = Instant::now();
            self.look();
        }
        while !bytes.is_empty() {
            let too_long = self.size >= self.log.max_bytes.saturating_add(SLACK);
            if too_long || self.at_line_end && self.size >= self.log.max_bytes {
                self.rotate();
            }
            let (piece, rest) = bytes.split_at(self.fits(bytes));
            self.append(piece);
            bytes = rest;
        }
    }

    /// How many of these bytes go into the file: whole lines, as many as fit,
    /// but at least one.
    fn fits(&self, bytes: &[u8]) -> usize {
        let left = |limit: u64| {
            let left = limit.saturating_sub(self.size);
            usize::try_from(left).unwrap_or(usize::MAX)
        };
        let room = left(self.log.max_bytes);
        if bytes.len() <= room {
            return bytes.len();
        }
        let whole = bytes[..room].iter().rposition(|byte| *byte == b'\n');
        let first = || bytes.iter().position(|byte| *byte == b'\n');
        let lines = whole.or_else(first).map_or(bytes.len(), |end| end + 1);
        let most = left(self.log.max_bytes.saturating_add(SLACK)).max(1);
        lines.min(most)
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.lost > 0 {
            let lost = self.lost;
            let note = format!("\nfanout: {lost} bytes of this log could not be written\n");
            if !self.try_append(note.as_bytes()) {
                self.lost += bytes.len() as u64;
                return;
            }
            self.lost = 0;
        }
        if !self.try_append(bytes) {
            self.lost += bytes.len() as u64;
        }
    }

    fn try_append(&mut self, bytes: &[u8]) -> bool {
        let written = self.file.write_all(bytes).is_ok();
        if written {
            self.size += bytes.len() as u64;
            self.at_line_end = bytes.last() == Some(&b'\n');
        } else {
            // Part of it may have been.
            let found = self.file.metadata().map(|found| found.len());
            self.size = found.unwrap_or(self.size);
        }
        written
    }

    /// Begins a new file. Where the files cannot be renamed the one that is
    /// there begins anew: the bounds hold, and the service goes on.
    fn rotate(&mut self) {
        if self.try_rotate().is_err() {
            // What cannot be emptied either is full soon, and then loses bytes.
            let _ = self.file.set_len(0);
        }
        let found = self.file.metadata().map(|found| found.len());
        self.size = found.unwrap_or_default();
        self.at_line_end = true;
    }

    fn try_rotate(&mut self) -> io::Result<()> {
        let path = &self.log.path;
        if self.log.max_files < 2 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let last = (1..self.log.max_files - 1)
            .take_while(|number| earlier(path, *number).exists())
            .last();
        for number in (0..=last.unwrap_or(0)).rev() {
            let (from, to) = (earlier(path, number), earlier(path, number + 1));
            match fs::rename(from, to) {
                Err(error) if number == 0 || error.kind() != io::ErrorKind::NotFound => {
                    return Err(error);
                }
                _ => {}
            }
        }
        self.file = open(path)?;
        Ok(())
    }

    /// Goes on in the file under the log's name, where somebody has taken the
    /// other away. An earlier writer may still append to the same file, so its
    /// size is read again.
    fn look(&mut self) {
        let id = |found: &fs::Metadata| (found.dev(), found.ino());
        let named = fs::metadata(&self.log.path);
        if let (Ok(own), Ok(named)) = (self.file.metadata(), named)
            && id(&own) == id(&named)
        {
            self.size = own.len();
            return;
        }
        if let Ok(file) = open(&self.log.path) {
            self.size = file.metadata().map_or(0, |found| found.len());
            self.file = file;
        }
    }
}

/// A log is its owner's alone: servers write what their clients said.
fn open(path: &Path) -> io::Result<File> {
    files::open(path, File::options().read(true).append(true).create(true))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(folder: &Path, max_bytes: u64, max_files: u32) -> LogFile {
        LogFile {
            path: folder.join("x.log"),
            max_bytes,
            max_files,
        }
    }

    /// All that is kept, oldest first.
    fn kept(path: &Path) -> String {
        let files = existing(path).into_iter().rev();
        let texts = files.map(|path| fs::read_to_string(path).expect("readable"));
        texts.collect()
    }

    fn sizes(path: &Path) -> Vec<u64> {
        let size = |path: PathBuf| fs::metadata(path).expect("there").len();
        existing(path).into_iter().map(size).collect()
    }

    #[test]
    fn a_log_never_exceeds_its_bounds_and_keeps_the_latest() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 1_000, 3);
        let mut writer = Rotating::open(log.clone()).expect("open");
        for number in 0..10_000 {
            writer.write(format!("line {number}\n").as_bytes());
            assert!(sizes(&log.path).iter().sum::<u64>() < 3 * 1_100);
        }
        assert_eq!(existing(&log.path).len(), 3);
        let kept = kept(&log.path);
        let first: u32 = kept.lines().next().expect("a line")[5..]
            .parse()
            .expect("whole");
        let expected: Vec<String> = (first..10_000)
            .map(|number| format!("line {number}"))
            .collect();
        assert_eq!(kept.lines().collect::<Vec<_>>(), expected);
        assert!(kept.ends_with('\n'));
        assert!(first > 9_000);
    }

    #[test]
    fn a_line_without_an_end_is_bounded_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 1_000, 2);
        let mut writer = Rotating::open(log.clone()).expect("open");
        for _ in 0..100 {
            writer.write(&[b'x'; 10_000]);
        }
        let sizes = sizes(&log.path);
        assert!(sizes.iter().all(|size| *size <= 1_000 + SLACK), "{sizes:?}");
    }

    #[test]
    fn what_is_there_is_gone_on_with_and_fewer_files_are_kept_from_now_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 10, 2);
        for number in 0..5 {
            fs::write(earlier(&log.path, number), format!("{number}")).expect("written");
        }
        let mut writer = Rotating::open(log.clone()).expect("open");
        assert_eq!(existing(&log.path).len(), 2);
        writer.write(b"23456789\nnext\n");
        assert_eq!(kept(&log.path), "023456789\nnext\n");
    }

    #[test]
    fn a_log_that_somebody_removes_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 1_000, 3);
        let mut writer = Rotating::open(log.clone()).expect("open");
        writer.write(b"one\n");
        fs::remove_file(&log.path).expect("removed");
        writer.looked -= LOOK_INTERVAL;
        writer.write(b"two\n");
        assert_eq!(kept(&log.path), "two\n");
    }

    #[test]
    fn what_another_writer_appends_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 10, 3);
        let mut writer = Rotating::open(log.clone()).expect("open");
        let mut other = Rotating::open(log.clone()).expect("open");
        other.write(b"123456789\n");
        writer.looked -= LOOK_INTERVAL;
        writer.write(b"two\n");
        assert_eq!(sizes(&log.path), [4, 10]);
    }

    #[test]
    fn a_single_file_begins_anew_when_it_is_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 10, 1);
        let mut writer = Rotating::open(log.clone()).expect("open");
        for _ in 0..9 {
            writer.write(b"1234567890\n");
        }
        assert_eq!(kept(&log.path), "1234567890\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path(), 1_000, 2);
        let mut writer = Rotating::open(log.clone()).expect("open");
        writer.looked += Duration::from_secs(3_600);
        writer.write(b"one\n");
        let good = std::mem::replace(
            &mut writer.file,
            File::options()
                .append(true)
                .open("/dev/full")
                .expect("there"),
        );
        writer.write(b"lost\n");
        writer.write(b"lost\n");
        writer.file = good;
        writer.write(b"two\n");
        let said = "one\n\nfanout: 10 bytes of this log could not be written\ntwo\n";
        assert_eq!(kept(&log.path), said);
    }

    proptest! {
        #[test]
        fn nothing_is_torn_or_lost_within_the_bounds(
            lines in proptest::collection::vec("[a-z]{0,40}", 1..60),
            cuts in proptest::collection::vec(1_usize..90, 1..60),
            max_bytes in 1_u64..200,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let log = log(folder.path(), max_bytes, MOST_FILES);
            let text = lines.join("\n") + "\n";
            let mut writer = Rotating::open(log.clone()).expect("open");
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                writer.write(piece);
                rest = after;
            }
            prop_assert_eq!(kept(&log.path), text);
            for path in existing(&log.path) {
                let text = fs::read_to_string(path).expect("readable");
                prop_assert!(text.is_empty() || text.ends_with('\n'));
                prop_assert!((text.len() as u64) < max_bytes + 42);
            }
        }
    }
}
