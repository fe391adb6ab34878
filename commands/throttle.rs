//! Keeps what repeats itself from filling a log: of lines that are alike, only
//! so many a minute are written, then how many were not.
//!
//! Lines are alike when they are written by the same statement about the same
//! sink, with the same code.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber, callsite::Identifier, field::Field};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that are alike in one [`WINDOW`].
const BURST: u32 = 20;

/// What is counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// What was left out is looked for this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Kinds of line that are told apart. There are far fewer.
const MAX_KINDS: usize = 1_000;

/// Characters of a message that say which it was.
const MAX_MESSAGE: usize = 200;

/// Where the lines of this module itself are from.
const OWN: &str = module_path!();

/// Lines that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    statement: Identifier,
    sink: String,
    code: String,
}

/// What was written of a kind since then.
#[derive(Debug)]
struct Count {
    since: Instant,
    written: u32,
    left_out: u64,
    message: String,
}

/// What was not written.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    sink: String,
    code: String,
    message: String,
    count: u64,
}

/// Decides which lines are written.
#[derive(Debug, Default)]
struct Limiter(HashMap<Kind, Count>);

impl Limiter {
    /// Whether a line may be written.
    fn takes(&mut self, now: Instant, kind: Kind, message: &str) -> bool {
        let mut kind = kind;
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&kind) {
            kind.sink.clear();
            kind.code.clear();
        }
        let count = self.0.entry(kind).or_insert_with(|| Count {
            since: now,
            written: 0,
            left_out: 0,
            message: message.chars().take(MAX_MESSAGE).collect(),
        });
        if count.left_out == 0 && now.duration_since(count.since) >= WINDOW {
            count.since = now;
            count.written = 0;
        }
        if count.written < BURST {
            count.written += 1;
            return true;
        }
        count.left_out += 1;
        false
    }

    /// What was left out in a window that is over; its kind begins anew.
    fn take_over(&mut self, now: Instant, at_end: bool) -> Vec<LeftOut> {
        let is_over = |count: &Count| at_end || now.duration_since(count.since) >= WINDOW;
        let over = self.0.extract_if(|_, count| is_over(count));
        over.filter(|(_, count)| count.left_out > 0)
            .map(|(kind, count)| LeftOut {
                sink: kind.sink,
                code: kind.code,
                message: count.message,
                count: count.left_out,
            })
            .collect()
    }
}

/// The layer of a subscriber that leaves lines out. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Mutex<Limiter>>);

impl Throttle {
    /// Writes from time to time how many lines were left out, and once more
    /// when it is dropped.
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

    fn report(&self, at_end: bool) {
        let over = {
            let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            limiter.take_over(Instant::now(), at_end)
        };
        for left_out in over {
            let LeftOut {
                sink,
                code,
                message,
                count,
            } = left_out;
            let sink = Some(sink).filter(|sink| !sink.is_empty());
            let code = Some(code).filter(|code| !code.is_empty());
            tracing::warn!(sink, code, count, "more lines like this: {message}");
        }
    }
}

/// Reports what a [`Throttle`] leaves out.
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
        limiter.takes(Instant::now(), kind, &fields.message)
    }
}

/// The fields by which lines are told apart.
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
    fn a_burst_is_cut_short_and_counted_and_others_are_not_held_up() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let written = (0..50_000)
            .filter(|_| limiter.takes(now, kind("http", "bad_type"), "dead-lettered"))
            .count();
        assert_eq!(written, 20);
        assert!(limiter.takes(now, kind("http", "bad_uuid"), "dead-lettered"));
        assert!(limiter.takes(now, kind("redis", "bad_type"), "dead-lettered"));
        assert!(limiter.take_over(now, false).is_empty());
        let later = now + WINDOW;
        assert!(!limiter.takes(later, kind("http", "bad_type"), "dead-lettered"));
        let over = limiter.take_over(later, false);
        let expected = LeftOut {
            sink: "http".to_owned(),
            code: "bad_type".to_owned(),
            message: "dead-lettered".to_owned(),
            count: 49_981,
        };
        assert_eq!(over, [expected]);
        assert!(limiter.0.is_empty());
        assert!(limiter.takes(later, kind("http", "bad_type"), "dead-lettered"));
    }

    #[test]
    fn what_is_left_out_is_counted_at_the_end_too() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..=BURST {
            limiter.takes(now, kind("http", ""), "trying again");
        }
        let over = limiter.take_over(now, true);
        assert_eq!(over.iter().map(|one| one.count).collect::<Vec<_>>(), [1]);
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_counted_and_kinds_are_bounded(
            lines in proptest::collection::vec((0_u64..2_000, 0_u16..1_500), 0..3_000),
        ) {
            let (mut limiter, start) = (Limiter::default(), Instant::now());
            let (mut at, mut written, mut counted) = (Duration::ZERO, 0, 0);
            let total = lines.len() as u64;
            for (pause_ms, code) in lines {
                at += Duration::from_millis(pause_ms);
                let kind = kind("http", &code.to_string());
                written += u64::from(limiter.takes(start + at, kind, "x"));
                if code == 0 {
                    let over = limiter.take_over(start + at, false);
                    counted += over.iter().map(|one| one.count).sum::<u64>();
                }
                prop_assert!(limiter.0.len() <= MAX_KINDS + 1);
            }
            let rest = limiter.take_over(start + at, true);
            counted += rest.iter().map(|one| one.count).sum::<u64>();
            prop_assert_eq!(written + counted, total);
        }
    }
}
