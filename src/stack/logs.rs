//! What services say: the log files of native processes, read line by line,
//! and on as they grow.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::{civil, tz::TimeZone};

use crate::timestamp;

/// How far back the last lines of a service that ended are looked for.
const TAIL_BYTES: u64 = 64 * 1024;

/// How much of a log is read at once, at most.
const READ_BYTES: u64 = 64 * 1024 * 1024;

/// The last `count` lines of a log, as far as it can be read.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = |file: &mut File| {
        let length = file.metadata()?.len();
        read_from(file, length.saturating_sub(TAIL_BYTES))
    };
    let bytes = File::open(path)
        .and_then(|mut file| read(&mut file))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

fn read_from(file: &mut File, offset: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One line, with the time it bears or that the lines before it bore, in
/// microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub time_us: Option<i64>,
    pub text: String,
}

/// A log that is read on from where it was read to. That it is put aside and
/// begun anew is noticed.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    offset: u64,
    inode: u64,
    /// A line whose end is not written yet.
    partial: Vec<u8>,
    time_us: Option<i64>,
}

impl Reader {
    /// At the beginning of the log at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            offset: 0,
            inode: 0,
            partial: Vec::new(),
            time_us: None,
        }
    }

    /// The whole lines written since the last call. Of a very long log the
    /// older part is skipped.
    ///
    /// # Errors
    /// When the log is there and cannot be read.
    pub fn more(&mut self) -> io::Result<Vec<Line>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if metadata.ino() != self.inode || metadata.len() < self.offset {
            self.offset = metadata.len().saturating_sub(READ_BYTES);
            self.inode = metadata.ino();
            self.partial.clear();
        }
        let bytes = read_from(&mut file, self.offset)?;
        self.offset += bytes.len() as u64;
        self.partial.extend(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().map(|line| self.line(line)).collect())
    }

    /// The line whose end is not written yet, as the last one.
    pub fn rest(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.is_empty()).then(|| self.line(&String::from_utf8_lossy(&rest)))
    }

    fn line(&mut self, text: &str) -> Line {
        self.time_us = line_time(text).or(self.time_us);
        Line {
            time_us: self.time_us,
            text: text.to_owned(),
        }
    }
}

/// The time that a line begins with, in the ways in which the stack's servers
/// write it: `2026-11-24T00:02:28.469Z`, `2026-11-24 00:02:31.432 UTC`,
/// `15305:M 24 Nov 2026 00:02:26.581`,
/// `2026.11.24 00:02:26.581333 [ 7 ] {} <Information> …`.
#[must_use]
pub fn line_time(line: &str) -> Option<i64> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    if let Some(time) = timestamp::parse(first) {
        return Some(time);
    }
    // ClickHouse's own, in the server's zone, which is UTC.
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
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn every_servers_time_is_read() {
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

    #[test]
    fn a_log_is_read_on_and_a_new_one_from_its_beginning() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.log");
        let texts =
            |lines: Vec<Line>| -> Vec<String> { lines.into_iter().map(|line| line.text).collect() };
        let mut reader = Reader::new(path.clone());
        assert_eq!(reader.more().expect("no log is no error"), []);
        let mut log = File::create(&path).expect("made");
        write!(log, "one\ntwo\nthr").expect("written");
        assert_eq!(texts(reader.more().expect("readable")), ["one", "two"]);
        writeln!(log, "ee").expect("written");
        assert_eq!(texts(reader.more().expect("readable")), ["three"]);
        fs::rename(&path, folder.path().join("x.log.1")).expect("put aside");
        fs::write(&path, "four\nfi").expect("written");
        assert_eq!(texts(reader.more().expect("readable")), ["four"]);
        assert_eq!(reader.rest().expect("a rest").text, "fi");
    }

    #[test]
    fn a_line_without_a_time_has_that_of_the_line_before() {
        let mut reader = Reader::new(PathBuf::new());
        let dated = reader.line("2026-11-24T00:02:26Z ERROR oops");
        assert_eq!(reader.line("\tat x.y.Z").time_us, dated.time_us);
    }
}
