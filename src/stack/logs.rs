//! Reads and follows the log files of native processes, line by line.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use jiff::{civil, tz::TimeZone};

use super::log_file;
use crate::time::timestamp;

/// Number of bytes read from a log in one call.
const CHUNK_BYTES: usize = 64 * 1024;

/// Maximum length of a line in bytes; a longer one is split.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// Returns the last `count` lines of a log that are not blank, as far as it can
/// be read.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let mut lines = VecDeque::new();
    let mut collect = |line: Line| {
        if !line.text.trim().is_empty() {
            lines.push_back(line.text);
        }
        if lines.len() > count {
            lines.pop_front();
        }
    };
    // Twice as many lines are read, because some may be blank.
    if let Ok(mut reader) = Reader::at_tail(path.to_owned(), 2 * count) {
        // Lines read before an error are returned.
        let _ = reader.visit_lines(&mut collect);
        reader.take_partial().map(&mut collect);
    }
    lines.into()
}

/// One line. Its time is the one in the line or, without one, in the lines
/// before it, in microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub time_us: Option<i64>,
    pub text: String,
}

/// Reads a log incrementally, across its rotated files.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// The current file and the offset of the next read.
    file: Option<(File, u64)>,
    /// Start of a line that is not complete yet.
    partial: Vec<u8>,
    time_us: Option<i64>,
}

impl Reader {
    /// Returns a reader at the beginning of the log at `path`, which may not
    /// exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            partial: Vec::new(),
            time_us: None,
        }
    }

    /// Returns a reader that starts `lines` lines before the end of the log, or
    /// at its beginning.
    ///
    /// # Errors
    /// If the log exists and cannot be read.
    pub fn at_tail(path: PathBuf, mut lines: usize) -> io::Result<Self> {
        let mut reader = Self::new(path);
        for path in log_file::existing(&reader.path) {
            let Some(file) = open(&path)? else { continue };
            if let Some(offset) = before_last(&file, &mut lines)? {
                reader.file = Some((file, offset));
                break;
            }
        }
        Ok(reader)
    }

    /// Returns a reader at the beginning of the first file that was modified at
    /// or after a time, in microseconds since the epoch.
    ///
    /// # Errors
    /// If the log exists and cannot be read.
    pub fn since(path: PathBuf, time_us: i64) -> io::Result<Self> {
        let mut reader = Self::new(path);
        let is_newer = |path: &&PathBuf| {
            let modified = fs::metadata(path).map(|found| found.mtime());
            modified.is_ok_and(|seconds| seconds >= time_us.div_euclid(1_000_000))
        };
        let files = log_file::existing(&reader.path);
        let first = files.iter().take_while(is_newer).last();
        if let Some(path) = first.or(files.first()) {
            reader.file = open(path)?.map(|file| (file, 0));
        }
        Ok(reader)
    }

    /// Returns the complete lines written since the last call.
    ///
    /// # Errors
    /// If the log exists and cannot be read.
    pub fn read_lines(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        self.visit_lines(&mut |line| lines.push(line))?;
        Ok(lines)
    }

    /// Calls `visit` with each complete line written since the last call.
    ///
    /// # Errors
    /// If the log exists and cannot be read.
    pub fn visit_lines(&mut self, visit: &mut dyn FnMut(Line)) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let Some((file, offset)) = &mut self.file else {
                match self.open_oldest()? {
                    Some(file) => self.file = Some((file, 0)),
                    None => return Ok(()),
                }
                continue;
            };
            let length = file.metadata()?.len();
            if length < *offset {
                // The file was truncated.
                *offset = 0;
                self.partial.clear();
            }
            match file.read_at(&mut chunk, *offset)? {
                0 => match self.open_next()? {
                    Some(file) => self.file = Some((file, 0)),
                    None => return Ok(()),
                },
                read => {
                    *offset += read as u64;
                    self.take(&chunk[..read], visit);
                }
            }
        }
    }

    /// Opens the oldest file.
    fn open_oldest(&self) -> io::Result<Option<File>> {
        match log_file::existing(&self.path).last() {
            Some(path) => open(path),
            None => Ok(None),
        }
    }

    /// Opens the file after the current one. Returns `None` if the current one
    /// is the latest.
    fn open_next(&self) -> io::Result<Option<File>> {
        let mut file_number = self.file_number()?;
        // A rotation may rename the files between the lookup and the opening.
        for _ in 0..10 {
            let next = match file_number {
                Some(0) => return Ok(None),
                Some(file_number) => open(&log_file::earlier(&self.path, file_number - 1))?,
                // The current file was deleted, so all existing files are
                // newer.
                None => self.open_oldest()?,
            };
            let current = self.file_number()?;
            if current == file_number {
                return Ok(next);
            }
            file_number = current;
        }
        Ok(None)
    }

    /// Returns the number of files that are newer than the current one.
    fn file_number(&self) -> io::Result<Option<u32>> {
        let Some((file, _)) = &self.file else {
            return Ok(None);
        };
        let opened = file.metadata()?;
        let is_own = |path: PathBuf| {
            let found = fs::metadata(path);
            found.is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino()))
        };
        let files = 0..=log_file::MOST_FILES;
        let mut files = files
            .take_while(|number| *number == 0 || log_file::earlier(&self.path, *number).exists());
        Ok(files.find(|number| is_own(log_file::earlier(&self.path, *number))))
    }

    fn take(&mut self, bytes: &[u8], visit: &mut dyn FnMut(Line)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let whole = std::mem::take(&mut self.partial);
            visit(self.line(&String::from_utf8_lossy(&whole)));
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() >= MAX_LINE_BYTES {
            let part = std::mem::take(&mut self.partial);
            visit(self.line(&String::from_utf8_lossy(&part)));
        }
    }

    /// Returns the incomplete last line, if there is one.
    pub fn take_partial(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.is_empty()).then(|| self.line(&String::from_utf8_lossy(&rest)))
    }

    fn line(&mut self, text: &str) -> Line {
        let text = text.trim_end_matches('\r');
        self.time_us = line_time(text).or(self.time_us);
        Line {
            time_us: self.time_us,
            text: text.to_owned(),
        }
    }
}

/// Opens the file; returns `None` if it does not exist.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the offset at which the last `lines` lines of a file begin. If the
/// file has fewer, returns `None` and subtracts them from `lines`.
fn before_last(file: &File, lines: &mut usize) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    if *lines == 0 {
        return Ok(Some(length));
    }
    let mut end = length;
    let mut chunk = vec![0; CHUNK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK_BYTES);
        let chunk = &mut chunk[..size];
        file.read_exact_at(chunk, start)?;
        for (index, _) in chunk
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let after = start + index as u64 + 1;
            // The final newline starts no line.
            if after == length {
                continue;
            }
            *lines = lines.saturating_sub(1);
            if *lines == 0 {
                return Ok(Some(after));
            }
        }
        end = start;
    }
    // Counts the first line of the file.
    *lines = lines.saturating_sub(usize::from(length > 0));
    Ok((*lines == 0).then_some(0))
}

/// Parses the time at the start of a line, in the formats of the stack's
/// servers: `2026-11-24T00:02:28.469Z`, `2026-11-24 00:02:31.432 UTC`,
/// `15305:M 24 Nov 2026 00:02:26.581`,
/// `2026.11.24 00:02:26.581333 [ 7 ] {} <Information> …`.
#[must_use]
pub fn line_time(line: &str) -> Option<i64> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    if let Some(time) = timestamp::parse(first) {
        return Some(time);
    }
    // ClickHouse writes the server's time zone, which is UTC.
    let dots = |text: &str| text.bytes().filter(|byte| *byte == b'.').count() == 2;
    let (date, format) = if dots(first) {
        (format!("{first} {}", words.next()?), "%Y.%m.%d %H:%M:%S%.f")
    } else if first.ends_with(|letter: char| letter.is_ascii_uppercase()) {
        let date: Vec<&str> = words.take(4).collect();
        (date.join(" "), "%d %b %Y %H:%M:%S%.f")
    } else {
        let (time, zone) = (words.next()?, words.next()?);
        if zone != "UTC" {
            return None;
        }
        (format!("{first} {time}"), "%Y-%m-%d %H:%M:%S%.f")
    };
    let time = civil::DateTime::strptime(format, date).ok()?;
    Some(TimeZone::UTC.to_timestamp(time).ok()?.as_microsecond())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::stack::log_file::{LogFile, Rotating};

    #[test]
    fn the_time_formats_of_all_servers_are_parsed() {
        let expected = timestamp::parse("2026-11-24T00:02:26.581Z");
        for line in [
            "2026-11-24T00:02:26.581Z INFO  Connect: Kafka Connect starting",
            "2026-11-24 00:02:26.581 UTC [15448] LOG:  listening",
            "15305:M 24 Nov 2026 00:02:26.581 * Ready to accept connections",
            "2026.11.24 00:02:26.581000 [ 7 ] {} <Information> Application: Ready",
        ] {
            assert_eq!(line_time(line), expected, "{line}");
        }
        for line in ["", "\tat java.lang.Thread.run", "listening on X", "a b c d"] {
            assert_eq!(line_time(line), None, "{line}");
        }
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    /// Creates a log in a temporary folder, with files of `max_bytes` bytes.
    fn log(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, PathBuf, Rotating) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.log");
        let log = Rotating::open(LogFile {
            path: path.clone(),
            max_bytes,
            max_files,
        });
        (folder, path, log.expect("open the log"))
    }

    #[test]
    fn reading_continues_in_a_new_file_after_a_rotation() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.log");
        let mut reader = Reader::new(path.clone());
        assert_eq!(reader.read_lines().expect("no log is no error"), []);
        let mut log = File::create(&path).expect("create the log");
        write!(log, "one\ntwo\nthr").expect("write to the log");
        assert_eq!(
            texts(reader.read_lines().expect("read the log")),
            ["one", "two"]
        );
        writeln!(log, "ee").expect("write to the log");
        assert_eq!(texts(reader.read_lines().expect("read the log")), ["three"]);
        writeln!(log, "unread").expect("write to the log");
        fs::rename(&path, folder.path().join("x.log.1")).expect("put aside");
        assert_eq!(
            texts(reader.read_lines().expect("read the log")),
            ["unread"]
        );
        fs::write(&path, "four\nfi").expect("write the file");
        assert_eq!(texts(reader.read_lines().expect("read the log")), ["four"]);
        assert_eq!(reader.take_partial().expect("a rest").text, "fi");
    }

    #[test]
    fn a_follower_misses_no_line_across_rotations() {
        let (_folder, path, mut log) = log(100, 50);
        let mut reader = Reader::new(path);
        let (mut followed, mut written) = (Vec::new(), 0);
        for burst in [1, 0, 7, 40, 3, 200, 1] {
            for _ in 0..burst {
                log.write(format!("line {written}\n").as_bytes());
                written += 1;
            }
            followed.extend(texts(reader.read_lines().expect("read the log")));
        }
        let expected: Vec<String> = (0..written).map(|n| format!("line {n}")).collect();
        assert_eq!(followed, expected);
    }

    #[test]
    fn a_reader_that_falls_behind_resumes_with_the_oldest_file() {
        let (_folder, path, mut log) = log(100, 3);
        let mut reader = Reader::new(path.clone());
        log.write(b"first\n");
        assert_eq!(texts(reader.read_lines().expect("read the log")), ["first"]);
        for number in 0..1_000 {
            log.write(format!("line {number}\n").as_bytes());
        }
        let read = texts(reader.read_lines().expect("read the log"));
        let all = texts(Reader::new(path).read_lines().expect("read the log"));
        // The reader still reads the file that it has open.
        assert!(
            read.ends_with(&all) && read.len() < all.len() + 20,
            "{read:?}"
        );
        assert_eq!(read.last().map(String::as_str), Some("line 999"));
    }

    #[test]
    fn the_last_lines_are_found_across_files() {
        let (_folder, path, mut log) = log(60, 10);
        for number in 0..30 {
            log.write(format!("line {number}\n").as_bytes());
        }
        log.write(b"\nthe rest");
        for count in [1, 5, 20, 30] {
            let lines = last_lines(&path, count);
            assert_eq!(lines.len(), count);
            assert_eq!(lines.last().map(String::as_str), Some("the rest"));
            let mut tail = Reader::at_tail(path.clone(), count).expect("read the log");
            // The last line is not complete yet.
            assert_eq!(tail.read_lines().expect("read the log").len(), count - 1);
            assert_eq!(tail.take_partial().expect("a rest").text, "the rest");
        }
        assert_eq!(last_lines(&path, 100).len(), 31);
        let mut end = Reader::at_tail(path, 0).expect("read the log");
        log.write(b" of it\n");
        assert_eq!(texts(end.read_lines().expect("read the log")), [" of it"]);
    }

    #[test]
    fn files_older_than_a_time_are_not_read() {
        let (folder, path, _log) = log(60, 10);
        let age = |name: &str, seconds: u64| {
            let file = folder.path().join(name);
            fs::write(&file, format!("{name}\n")).expect("write the file");
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = File::options()
                .append(true)
                .open(file)
                .expect("open the file");
            file.set_modified(time).expect("set the time");
        };
        age("x.log.2", 100);
        age("x.log.1", 200);
        age("x.log", 300);
        let since = |seconds: i64| {
            let mut reader =
                Reader::since(path.clone(), seconds * 1_000_000).expect("read the log");
            texts(reader.read_lines().expect("read the log"))
        };
        assert_eq!(since(50), ["x.log.2", "x.log.1", "x.log"]);
        assert_eq!(since(150), ["x.log.1", "x.log"]);
        assert_eq!(since(900), ["x.log"]);
    }

    #[test]
    fn an_endless_line_is_split() {
        let (_folder, path, mut log) = log(10 * MAX_LINE_BYTES as u64, 2);
        log.write(&vec![b'x'; 3 * MAX_LINE_BYTES]);
        let mut reader = Reader::new(path);
        let lines = reader.read_lines().expect("read the log");
        assert!(lines.len() >= 2 && reader.partial.len() < MAX_LINE_BYTES);
        let longest = lines.iter().map(|line| line.text.len()).max();
        assert!(longest < Some(MAX_LINE_BYTES + CHUNK_BYTES), "{longest:?}");
    }

    #[test]
    fn a_line_without_a_time_gets_the_time_of_the_previous_line() {
        let mut reader = Reader::new(PathBuf::new());
        let dated = reader.line("2026-11-24T00:02:26Z ERROR oops");
        assert_eq!(reader.line("\tat x.y.Z").time_us, dated.time_us);
    }
}
