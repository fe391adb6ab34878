//! Logs of containers, line by line with timestamps.

use std::pin::Pin;

use bollard::{container::LogOutput, errors::Error, query_parameters::LogsOptionsBuilder};
use futures_util::{Stream, StreamExt as _};

use super::{Engine, error::DockerError};
use crate::time::timestamp;

/// One line, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Time at which the engine received the line, in microseconds since the
    /// epoch.
    pub time_us: Option<i64>,
    pub text: String,
}

/// Stream of log lines.
pub struct LogStream {
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    partial: Vec<u8>,
    complete: Vec<LogLine>,
}

impl Engine {
    /// Returns the lines that a container has written: all or the last `tail`,
    /// and of these the ones from `since_us` (microseconds since the epoch) on.
    ///
    /// # Errors
    /// If the engine does not respond or the container does not exist.
    pub async fn log(
        &self,
        name: &str,
        tail: Option<usize>,
        since_us: Option<i64>,
    ) -> Result<Vec<LogLine>, DockerError> {
        let mut follow = self.read_log(name, tail, since_us, false);
        let mut lines = Vec::new();
        while let Some(line) = follow.next().await? {
            lines.push(line);
        }
        Ok(lines)
    }

    /// Follows the lines that a running container writes from `since_us` on,
    /// until it stops.
    #[must_use]
    pub fn follow(&self, name: &str, since_us: Option<i64>) -> LogStream {
        self.read_log(name, None, since_us, true)
    }

    fn read_log(
        &self,
        name: &str,
        tail: Option<usize>,
        since_us: Option<i64>,
        follow: bool,
    ) -> LogStream {
        let tail = tail.map_or("all".to_owned(), |count| count.to_string());
        // The engine filters by whole seconds; the caller drops older lines.
        let since = since_us.map_or(0, |micros| micros.div_euclid(1_000_000));
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(follow)
            .since(i32::try_from(since).unwrap_or_default())
            .tail(&tail)
            .build();
        LogStream {
            output: Box::pin(self.docker.logs(name, Some(options))),
            partial: Vec::new(),
            complete: Vec::new(),
        }
    }
}

impl LogStream {
    /// Returns the next line, or `None` at the end.
    ///
    /// # Errors
    /// If the connection to the engine fails.
    pub async fn next(&mut self) -> Result<Option<LogLine>, DockerError> {
        loop {
            if !self.complete.is_empty() {
                return Ok(Some(self.complete.remove(0)));
            }
            match self.output.next().await {
                Some(output) => self.push(&output?.into_bytes()),
                None if self.partial.is_empty() => return Ok(None),
                None => {
                    let rest = std::mem::take(&mut self.partial);
                    return Ok(Some(parse_line(&rest)));
                }
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let lines = complete.split(|byte| *byte == b'\n');
        self.complete
            .extend(lines.filter(|bytes| !bytes.is_empty()).map(parse_line));
    }
}

/// Parses a line: `2026-11-24T00:02:28.469123456Z text`.
fn parse_line(bytes: &[u8]) -> LogLine {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let (time, rest) = text.split_once(' ').unwrap_or((text, ""));
    match timestamp::parse(time) {
        Some(time_us) => LogLine {
            time_us: Some(time_us),
            text: rest.to_owned(),
        },
        None => LogLine {
            time_us: None,
            text: text.to_owned(),
        },
    }
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LogStream").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_timestamp_is_removed_from_a_line() {
        let read = parse_line(b"2026-11-24T00:02:28.469123456Z  LOG: ready \r");
        assert_eq!(read.text, " LOG: ready ");
        assert_eq!(
            read.time_us,
            timestamp::parse("2026-11-24T00:02:28.469123Z")
        );
        assert_eq!(parse_line(b"no time").text, "no time");
    }
}
