//! What containers say, line by line, with the time at which they said it.

use std::pin::Pin;

use bollard::{container::LogOutput, errors::Error, query_parameters::LogsOptionsBuilder};
use futures_util::{Stream, StreamExt as _};

use super::{Engine, error::DockerError};
use crate::timestamp;

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Microseconds since the epoch, as the engine saw it.
    pub time_us: Option<i64>,
    pub text: String,
}

/// Lines as they are written.
pub struct Follow {
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    partial: Vec<u8>,
    whole: Vec<LogLine>,
}

impl Engine {
    /// The lines that a container has written: of all, or of the last `tail`,
    /// those from `since_us` (microseconds since the epoch) on.
    ///
    /// # Errors
    /// When the engine does not answer or the container is not there.
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

    /// The lines that a running container writes from `since_us` on, until it
    /// ends.
    #[must_use]
    pub fn follow(&self, name: &str, since_us: Option<i64>) -> Follow {
        self.read_log(name, None, since_us, true)
    }

    fn read_log(
        &self,
        name: &str,
        tail: Option<usize>,
        since_us: Option<i64>,
        follow: bool,
    ) -> Follow {
        let tail = tail.map_or("all".to_owned(), |count| count.to_string());
        // The engine takes whole seconds; the caller leaves out what is too old.
        let since = since_us.map_or(0, |micros| micros.div_euclid(1_000_000));
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(follow)
            .since(i32::try_from(since).unwrap_or_default())
            .tail(&tail)
            .build();
        Follow {
            output: Box::pin(self.docker.logs(name, Some(options))),
            partial: Vec::new(),
            whole: Vec::new(),
        }
    }
}

impl Follow {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// When the engine breaks off.
    pub async fn next(&mut self) -> Result<Option<LogLine>, DockerError> {
        loop {
            if !self.whole.is_empty() {
                return Ok(Some(self.whole.remove(0)));
            }
            match self.output.next().await {
                Some(output) => self.take(&output?.into_bytes()),
                None if self.partial.is_empty() => return Ok(None),
                None => {
                    let rest = std::mem::take(&mut self.partial);
                    return Ok(Some(line(&rest)));
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        let lines = whole.split(|byte| *byte == b'\n');
        self.whole
            .extend(lines.filter(|bytes| !bytes.is_empty()).map(line));
    }
}

/// `2026-11-24T00:02:28.469123456Z text`.
fn line(bytes: &[u8]) -> LogLine {
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

impl std::fmt::Debug for Follow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Follow").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_time_is_taken_off_a_line() {
        let read = line(b"2026-11-24T00:02:28.469123456Z  LOG: ready \r");
        assert_eq!(read.text, " LOG: ready ");
        assert_eq!(
            read.time_us,
            timestamp::parse("2026-11-24T00:02:28.469123Z")
        );
        assert_eq!(line(b"no time").text, "no time");
    }
}
