//! Follows the logs of containers. Following continues when a container is
//! restarted, or replaced under the same name.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};

use super::engine::{DockerError, Engine, LogLine};
use crate::stack::logs::Line;

/// Delay before the log is requested again after it has ended.
const RETRY_DELAY: Duration = Duration::from_millis(300);

/// Number of lines that are buffered.
const READ_AHEAD: usize = 10_000;

/// Log reader of one container, found by its name.
#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    name: String,
    seen: Seen,
    /// Lines of the background task, once the log is followed.
    lines: Option<mpsc::Receiver<LogLine>>,
}

/// Position in a log. It is needed because the engine only filters by whole
/// seconds.
#[derive(Debug, Clone, Default)]
struct Seen {
    time_us: i64,
    /// Lines seen with the time `time_us`.
    lines_at_time: Vec<String>,
}

impl Seen {
    /// Returns whether a line is new, and marks it as seen.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some(time) = line.time_us else {
            return true;
        };
        if time < self.time_us || time == self.time_us && self.lines_at_time.contains(&line.text) {
            return false;
        }
        if time > self.time_us {
            self.time_us = time;
            self.lines_at_time.clear();
        }
        self.lines_at_time.push(line.text.clone());
        true
    }
}

impl Reader {
    /// Returns a reader at the beginning of the container's log.
    #[must_use]
    pub fn new(engine: Engine, name: String) -> Self {
        Self {
            engine,
            name,
            seen: Seen::default(),
            lines: None,
        }
    }

    /// Returns the lines written so far: those from `since_us` on, or the last
    /// `tail` of them. Returns none if the container does not exist.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn read_existing(
        &mut self,
        tail: Option<usize>,
        since_us: Option<i64>,
    ) -> Result<Vec<Line>, DockerError> {
        let lines = match self.engine.log(&self.name, tail, since_us).await {
            Err(error) if error.status() == Some(404) => Vec::new(),
            other => other?,
        };
        let since = since_us.unwrap_or(i64::MIN);
        let new_lines = lines.into_iter().filter(|line| {
            let recent = line.time_us.is_none_or(|time| time >= since);
            self.seen.is_new(line) && recent
        });
        Ok(new_lines.map(to_line).collect())
    }

    /// Returns the lines written since the last call. The first call starts
    /// following the log.
    pub fn read_new(&mut self) -> Vec<Line> {
        let lines = self.lines.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(READ_AHEAD);
            let (engine, name, seen) = (self.engine.clone(), self.name.clone(), self.seen.clone());
            tokio::spawn(listen(engine, name, seen, sender));
            receiver
        });
        let mut new_lines = Vec::new();
        while let Ok(line) = lines.try_recv() {
            new_lines.push(to_line(line));
        }
        new_lines
    }
}

fn to_line(line: LogLine) -> Line {
    Line {
        time_us: line.time_us,
        text: line.text,
    }
}

async fn listen(engine: Engine, name: String, mut seen: Seen, lines: mpsc::Sender<LogLine>) {
    while !lines.is_closed() {
        let since = (seen.time_us > 0).then_some(seen.time_us);
        let mut follow = engine.follow(&name, since);
        // The stream ends if the container stops or does not exist. The next
        // request finds the container that replaced it.
        while let Ok(Some(line)) = follow.next().await {
            if seen.is_new(&line) && lines.send(line).await.is_err() {
                return;
            }
        }
        sleep(RETRY_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_new_once() {
        let line = |time_us: i64, text: &str| LogLine {
            time_us: Some(time_us),
            text: text.to_owned(),
        };
        let mut seen = Seen::default();
        assert!(seen.is_new(&line(1, "a")));
        assert!(seen.is_new(&line(2, "b")));
        assert!(seen.is_new(&line(2, "c")));
        for repeated in [line(1, "a"), line(2, "b"), line(2, "c")] {
            assert!(!seen.is_new(&repeated), "{repeated:?}");
        }
        assert!(seen.is_new(&line(3, "a")));
    }
}
