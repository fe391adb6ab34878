//! A log with a bounded number of files of bounded size: `redis.log`, and older
//! files `redis.log.1`, `redis.log.2` and so on.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::files;

/// Number of bytes by which a file may exceed its limit, so that no line is
/// split.
const SLACK: u64 = 64 * 1024;

/// Interval between two checks that the log's path still names the open file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Highest number of a file that may exist from an earlier, larger limit.
pub const MOST_FILES: u32 = 1_000;

/// A log and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    pub path: PathBuf,
    /// Maximum size of each file in bytes.
    pub max_bytes: u64,
    /// Maximum number of files, including the current one.
    pub max_files: u32,
}

/// Returns the path of the file `number` rotations ago; 0 is the current file.
#[must_use]
pub fn earlier(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Returns the existing files, the latest first.
#[must_use]
pub fn existing(path: &Path) -> Vec<PathBuf> {
    // The latest file may be missing during a rotation.
    let earlier = (1..MOST_FILES)
        .map(|number| earlier(path, number))
        .take_while(|path| path.exists());
    let latest = path.exists().then(|| path.to_owned());
    latest.into_iter().chain(earlier).collect()
}

/// Writes a log and keeps it within its limits, even if its files are removed
/// or truncated.
#[derive(Debug)]
pub struct Rotating {
    log: LogFile,
    file: File,
    size: u64,
    /// Whether the file ends with a complete line.
    at_line_end: bool,
    /// Number of bytes that could not be written.
    lost: u64,
    checked_at: Instant,
}

impl Rotating {
    /// Opens the log for appending. Files beyond its limits are removed.
    ///
    /// # Errors
    /// If the file cannot be opened.
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
            checked_at: Instant::now(),
        })
    }

    /// Appends bytes. A full disk does not block the caller: lost bytes are
    /// counted, and reported once writing works again.
    pub fn write(&mut self, mut bytes: &[u8]) {
        if self.checked_at.elapsed() >= CHECK_INTERVAL {
            self.checked_at = Instant::now();
            self.reopen_if_replaced();
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

    /// Returns the number of bytes to write into the current file: as many
    /// complete lines as fit, but at least one.
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
            // Some bytes may have been written.
            let found = self.file.metadata().map(|found| found.len());
            self.size = found.unwrap_or(self.size);
        }
        written
    }

    /// Starts a new file. If the files cannot be renamed, the current one is
    /// truncated: the limits hold, and the service keeps running.
    fn rotate(&mut self) {
        if self.try_rotate().is_err() {
            // If truncating fails too, the file fills up and further bytes are
            // lost.
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

    /// Reopens the log if its path no longer names the open file. Otherwise
    /// rereads the size, because an earlier writer may still append to the
    /// file.
    fn reopen_if_replaced(&mut self) {
        let id = |found: &fs::Metadata| (found.dev(), found.ino());
        let named = fs::metadata(&self.log.path);
        if let (Ok(opened), Ok(named)) = (self.file.metadata(), named)
            && id(&opened) == id(&named)
        {
            self.size = opened.len();
            return;
        }
        if let Ok(file) = open(&self.log.path) {
            self.size = file.metadata().map_or(0, |found| found.len());
            self.file = file;
        }
    }
}

/// Opens a log file, readable for its owner only, because servers log what
/// their clients sent.
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

    /// Returns the content of all files, oldest first.
    fn content(path: &Path) -> String {
        let files = existing(path).into_iter().rev();
        let texts = files.map(|path| fs::read_to_string(path).expect("read the log"));
        texts.collect()
    }

    fn sizes(path: &Path) -> Vec<u64> {
        let size = |path: PathBuf| fs::metadata(path).expect("the path exists").len();
        existing(path).into_iter().map(size).collect()
    }

    #[test]
    fn a_log_never_exceeds_its_bounds_and_keeps_the_latest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 1_000, 3);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        for number in 0..10_000 {
            writer.write(format!("line {number}\n").as_bytes());
            assert!(sizes(&log.path).iter().sum::<u64>() < 3 * 1_100);
        }
        assert_eq!(existing(&log.path).len(), 3);
        let content = content(&log.path);
        let first: u32 = content.lines().next().expect("a line")[5..]
            .parse()
            .expect("whole");
        let expected: Vec<String> = (first..10_000)
            .map(|number| format!("line {number}"))
            .collect();
        assert_eq!(content.lines().collect::<Vec<_>>(), expected);
        assert!(content.ends_with('\n'));
        assert!(first > 9_000);
    }

    #[test]
    fn an_endless_line_is_limited_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 1_000, 2);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        for _ in 0..100 {
            writer.write(&[b'x'; 10_000]);
        }
        let sizes = sizes(&log.path);
        assert!(sizes.iter().all(|size| *size <= 1_000 + SLACK), "{sizes:?}");
    }

    #[test]
    fn an_existing_log_is_continued_and_files_beyond_the_limit_are_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 10, 2);
        for number in 0..5 {
            fs::write(earlier(&log.path, number), format!("{number}")).expect("write the file");
        }
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        assert_eq!(existing(&log.path).len(), 2);
        writer.write(b"23456789\nnext\n");
        assert_eq!(content(&log.path), "023456789\nnext\n");
    }

    #[test]
    fn a_removed_log_is_recreated() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 1_000, 3);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        writer.write(b"one\n");
        fs::remove_file(&log.path).expect("remove the file");
        writer.checked_at -= CHECK_INTERVAL;
        writer.write(b"two\n");
        assert_eq!(content(&log.path), "two\n");
    }

    #[test]
    fn bytes_of_another_writer_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 10, 3);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        let mut other = Rotating::open(log.clone()).expect("open the log");
        other.write(b"123456789\n");
        writer.checked_at -= CHECK_INTERVAL;
        writer.write(b"two\n");
        assert_eq!(sizes(&log.path), [4, 10]);
    }

    #[test]
    fn a_single_full_file_is_truncated() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 10, 1);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        for _ in 0..9 {
            writer.write(b"1234567890\n");
        }
        assert_eq!(content(&log.path), "1234567890\n");
    }

    #[test]
    fn lost_lines_are_reported_once_the_disk_has_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(folder.path(), 1_000, 2);
        let mut writer = Rotating::open(log.clone()).expect("open the log");
        writer.checked_at += Duration::from_secs(3_600);
        writer.write(b"one\n");
        let good = std::mem::replace(
            &mut writer.file,
            File::options()
                .append(true)
                .open("/dev/full")
                .expect("open /dev/full"),
        );
        writer.write(b"lost\n");
        writer.write(b"lost\n");
        writer.file = good;
        writer.write(b"two\n");
        let expected = "one\n\nfanout: 10 bytes of this log could not be written\ntwo\n";
        assert_eq!(content(&log.path), expected);
    }

    proptest! {
        #[test]
        fn no_line_is_split_or_lost_within_the_limits(
            lines in proptest::collection::vec("[a-z]{0,40}", 1..60),
            cuts in proptest::collection::vec(1_usize..90, 1..60),
            max_bytes in 1_u64..200,
        ) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let log = log(folder.path(), max_bytes, MOST_FILES);
            let text = lines.join("\n") + "\n";
            let mut writer = Rotating::open(log.clone()).expect("open the log");
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                writer.write(piece);
                rest = after;
            }
            prop_assert_eq!(content(&log.path), text);
            for path in existing(&log.path) {
                let text = fs::read_to_string(path).expect("read the log");
                prop_assert!(text.is_empty() || text.ends_with('\n'));
                prop_assert!((text.len() as u64) < max_bytes + 42);
            }
        }
    }
}
