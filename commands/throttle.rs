//! Limits repeated log lines: of similar lines, only [`BURST`] per minute are
//! written, then a summary with the number of suppressed lines.
//!
//! Lines are similar if the same statement writes them about the same sink with
//! the same code.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber, callsite::Identifier, field::Field};
use tracing_subscriber::layer::{Context, Layer};

/// Maximum number of similar lines in one [`WINDOW`].
const BURST: u32 = 20;

/// Period over which similar lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Interval between two checks for suppressed lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of kinds of lines that are counted separately. In practice
/// there are far fewer.
const MAX_KINDS: usize = 1_000;

/// Number of characters of a message that a summary contains.
const MAX_MESSAGE: usize = 200;

/// Target of the lines that this module writes itself.
const OWN: &str = module_path!();

/// The key of similar lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    statement: Identifier,
    sink: String,
    code: String,
}

/// Number of lines of a kind since an instant.
#[derive(Debug)]
struct Count {
    since: Instant,
    written: u32,
    suppressed: u64,
    message: String,
}

/// Summary of suppressed lines.
#[derive(Debug, PartialEq, Eq)]
struct Suppressed {
    sink: String,
    code: String,
    message: String,
    count: u64,
}

/// Decides which lines are written.
#[derive(Debug, Default)]
struct Limiter(HashMap<Kind, Count>);

impl Limiter {
    /// Counts a line. Returns true if it may be written.
    fn admit(&mut self, now: Instant, kind: Kind, message: &str) -> bool {
        let mut kind = kind;
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&kind) {
            kind.sink.clear();
            kind.code.clear();
        }
        let count = self.0.entry(kind).or_insert_with(|| Count {
            since: now,
            written: 0,
            suppressed: 0,
            message: message.chars().take(MAX_MESSAGE).collect(),
        });
        if count.suppressed == 0 && now.duration_since(count.since) >= WINDOW {
            count.since = now;
            count.written = 0;
        }
        if count.written < BURST {
            count.written += 1;
            return true;
        }
        count.suppressed += 1;
        false
    }

    /// Removes the counts of windows that have ended, or all counts if
    /// `is_shutdown`. Returns summaries of the suppressed lines.
    fn take_ended(&mut self, now: Instant, is_shutdown: bool) -> Vec<Suppressed> {
        let is_ended = |count: &Count| is_shutdown || now.duration_since(count.since) >= WINDOW;
        let ended = self.0.extract_if(|_, count| is_ended(count));
        ended
            .filter(|(_, count)| count.suppressed > 0)
            .map(|(kind, count)| Suppressed {
                sink: kind.sink,
                code: kind.code,
                message: count.message,
                count: count.suppressed,
            })
            .collect()
    }
}

/// Subscriber layer that suppresses lines. Clones share their counts.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Mutex<Limiter>>);

impl Throttle {
    /// Starts a reporter that logs the number of suppressed lines periodically,
    /// and once more when it is dropped.
    pub fn reporter(&self) -> Reporter {
        let throttle = self.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(REPORT_INTERVAL).await;
                throttle.report(false);
            }
        });
        Reporter {
            throttle: self.clone(),
            task,
        }
    }

    fn report(&self, is_shutdown: bool) {
        let summaries = {
            let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            limiter.take_ended(Instant::now(), is_shutdown)
        };
        for suppressed in summaries {
            let Suppressed {
                sink,
                code,
                message,
                count,
            } = suppressed;
            let sink = Some(sink).filter(|sink| !sink.is_empty());
            let code = Some(code).filter(|code| !code.is_empty());
            tracing::warn!(sink, code, count, "more lines like this: {message}");
        }
    }
}

/// Reports the lines that a [`Throttle`] suppresses.
#[derive(Debug)]
pub struct Reporter {
    throttle: Throttle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
        self.throttle.report(true);
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if event.metadata().target() == OWN {
            return true;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let kind = Kind {
            statement: event.metadata().callsite(),
            sink: fields.sink,
            code: fields.code,
        };
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.admit(Instant::now(), kind, &fields.message)
    }
}

/// The fields of a line that determine its kind.
#[derive(Debug, Default)]
struct Fields {
    sink: String,
    code: String,
    message: String,
}

impl tracing::field::Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "sink" => value.clone_into(&mut self.sink),
            "code" => value.clone_into(&mut self.code),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(sink: &str, code: &str) -> Kind {
        let metadata = tracing::callsite!(
            name: "test",
            kind: tracing::metadata::Kind::EVENT,
            fields: message
        );
        Kind {
            statement: Identifier(metadata),
            sink: sink.to_owned(),
            code: code.to_owned(),
        }
    }

    #[test]
    fn a_burst_is_suppressed_and_counted_without_affecting_other_lines() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let written = (0..50_000)
            .filter(|_| limiter.admit(now, kind("http", "bad_type"), "dead-lettered"))
            .count();
        assert_eq!(written, 20);
        assert!(limiter.admit(now, kind("http", "bad_uuid"), "dead-lettered"));
        assert!(limiter.admit(now, kind("redis", "bad_type"), "dead-lettered"));
        assert!(limiter.take_ended(now, false).is_empty());
        let later = now + WINDOW;
        assert!(!limiter.admit(later, kind("http", "bad_type"), "dead-lettered"));
        let summaries = limiter.take_ended(later, false);
        let expected = Suppressed {
            sink: "http".to_owned(),
            code: "bad_type".to_owned(),
            message: "dead-lettered".to_owned(),
            count: 49_981,
        };
        assert_eq!(summaries, [expected]);
        assert!(limiter.0.is_empty());
        assert!(limiter.admit(later, kind("http", "bad_type"), "dead-lettered"));
    }

    #[test]
    fn suppressed_lines_are_counted_on_shutdown() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..=BURST {
            limiter.admit(now, kind("http", ""), "retrying");
        }
        let summaries = limiter.take_ended(now, true);
        let counts: Vec<u64> = summaries.iter().map(|summary| summary.count).collect();
        assert_eq!(counts, [1]);
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_counted_and_kinds_are_bounded(
            lines in proptest::collection::vec((0_u64..2_000, 0_u16..1_500), 0..3_000),
        ) {
            let (mut limiter, start) = (Limiter::default(), Instant::now());
            let (mut elapsed, mut written, mut counted) = (Duration::ZERO, 0, 0);
            let total = lines.len() as u64;
            for (pause_ms, code) in lines {
                elapsed += Duration::from_millis(pause_ms);
                let kind = kind("http", &code.to_string());
                written += u64::from(limiter.admit(start + elapsed, kind, "x"));
                if code == 0 {
                    let summaries = limiter.take_ended(start + elapsed, false);
                    counted += summaries.iter().map(|summary| summary.count).sum::<u64>();
                }
                prop_assert!(limiter.0.len() <= MAX_KINDS + 1);
            }
            let rest = limiter.take_ended(start + elapsed, true);
            counted += rest.iter().map(|summary| summary.count).sum::<u64>();
            prop_assert_eq!(written + counted, total);
        }
    }
}
