//! What containers say, as it is written, whatever becomes of the container
//! meanwhile: one that is started anew, or replaced under its name, is read on.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};

use crate::{
    clients::docker::{DockerError, Engine, LogLine},
    stack::logs::Line,
};

/// Between two looks for a container that says nothing any more.
const PAUSE: Duration = Duration::from_millis(300);

/// Lines that are read and not yet taken.
const READ_AHEAD: usize = 10_000;

/// The log of one container, by its name.
#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    name: String,
    seen: Seen,
    /// Once it is followed.
    lines: Option<mpsc::Receiver<LogLine>>,
}

/// Up to where a log was read: its engine answers in whole seconds.
#[derive(Debug, Clone, Default)]
struct Seen {
    time_us: i64,
    /// The lines of that very microsecond.
    at: Vec<String>,
}

impl Seen {
    /// Whether a line is a new one; it is then seen.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some(time) = line.time_us else {
            return true;
        };
        if time < self.time_us || time == self.time_us && self.at.contains(&line.text) {
            return false;
        }
        if time > self.time_us {
            self.time_us = time;
            self.at.clear();
        }
        self.at.push(line.text.clone());
        true
    }
}

impl Reader {
    /// At the beginning of the log of the container of this name.
    #[must_use]
    pub fn new(engine: Engine, name: String) -> Self {
        Self {
            engine,
            name,
            seen: Seen::default(),
            lines: None,
        }
    }

    /// What was written so far, from `since_us` on, or of that the last `tail`.
    /// Nothing where there is no container.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn so_far(
        &mut self,
        tail: Option<usize>,
        since_us: Option<i64>,
    ) -> Result<Vec<Line>, DockerError> {
        let lines = match self.engine.log(&self.name, tail, since_us).await {
            Err(error) if error.status() == Some(404) => Vec::new(),
            other => other?,
        };
        let since = since_us.unwrap_or(i64::MIN);
        let wanted = lines.into_iter().filter(|line| {
            let recent = line.time_us.is_none_or(|time| time >= since);
            self.seen.is_new(line) && recent
        });
        Ok(wanted.map(of_client).collect())
    }

    /// What was written since the last call. The first begins to listen.
    pub fn more(&mut self) -> Vec<Line> {
        let lines = self.lines.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(READ_AHEAD);
            let (engine, name, seen) = (self.engine.clone(), self.name.clone(), self.seen.clone());
            tokio::spawn(listen(engine, name, seen, sender));
            receiver
        });
        let mut taken = Vec::new();
        while let Ok(line) = lines.try_recv() {
            taken.push(of_client(line));
        }
        taken
    }
}

fn of_client(line: LogLine) -> Line {
    Line {
        time_us: line.time_us,
        text: line.text,
    }
}

async fn listen(engine: Engine, name: String, mut seen: Seen, lines: mpsc::Sender<LogLine>) {
    while !lines.is_closed() {
        let since = (seen.time_us > 0).then_some(seen.time_us);
        let mut follow = engine.follow(&name, since);
        // It ends with its container, and where there is none; so does this
        // look, and the next one finds who came after.
        while let Ok(Some(line)) = follow.next().await {
            if seen.is_new(&line) && lines.send(line).await.is_err() {
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_new_once() {
        let line = |time_us: i64, text: &str| LogLine {
            time_us: Some(time_us),
            text: text.to_owned(),
        };
        let mut seen = Seen::default();
        assert!(seen.is_new(&line(1, "a")));
        assert!(seen.is_new(&line(2, "b")));
        assert!(seen.is_new(&line(2, "c")));
        for again in [line(1, "a"), line(2, "b"), line(2, "c")] {
            assert!(!seen.is_new(&again), "{again:?}");
        }
        assert!(seen.is_new(&line(3, "a")));
    }
}
