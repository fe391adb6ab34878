//! Changes of every kind, as long as something is to be led to its crash: new
//! events, updates, deletes, content that changes after its events, and records
//! that nobody understands. And the look at what became of them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{Producer, Record, Stack, content, eventually, same};

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// Between two steps: longer than what waits for company waits.
const PAUSE: Duration = Duration::from_millis(300);

/// The source under load, and what was written past it.
pub struct Load<'a> {
    stack: &'a Stack,
    producer: Producer,
    contents: Vec<Uuid>,
    steps: AtomicU64,
    /// Records of the events' topic that nobody understands.
    poison: AtomicU64,
}

impl<'a> Load<'a> {
    pub fn new(stack: &'a Stack) -> Self {
        let before = excused(&verify(stack));
        Self {
            stack,
            producer: Producer::new(stack),
            contents: (0..6).map(|_| content(stack, 100)).collect(),
            steps: AtomicU64::new(0),
            poison: AtomicU64::new(before),
        }
    }

    /// Goes on while `work` does.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    self.step();
                    thread::sleep(PAUSE);
                }
            });
            // The load ends also where the work fails.
            let _ended = Ending(&over);
            work()
        })
    }

    /// Events and poison; after them, alone, what they are enriched with.
    fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let of = |number: usize| self.contents[number % self.contents.len()];
        let place = usize::try_from(step).unwrap_or_default();
        let rows = (0..9).map(|number| {
            let duration = 1000 + number * 1000;
            format!(
                "('{}', 'play', now(), {duration}, 'crash')",
                of(place + number)
            )
        });
        let rows: Vec<String> = rows.collect();
        self.stack.stores.postgres(&format!(
            "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
             VALUES {};
             UPDATE engagement_events SET duration_ms = duration_ms + 1
             WHERE id IN (SELECT id FROM engagement_events ORDER BY id DESC OFFSET 5 LIMIT 4);
             DELETE FROM engagement_events
             WHERE id IN (SELECT id FROM engagement_events ORDER BY id DESC OFFSET 12 LIMIT 1)",
            rows.join(", ")
        ));
        self.poison();
        thread::sleep(PAUSE);
        self.stack.stores.postgres(&format!(
            "UPDATE content SET length_seconds = length_seconds + 1 WHERE id = '{}'",
            of(place)
        ));
    }

    fn poison(&self) {
        let step = self.poison.fetch_add(1, Ordering::Relaxed);
        let partition = i32::try_from(step % 3).unwrap_or_default();
        let garbage = |key: Option<&str>| Record {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: Some(b"{".to_vec()),
        };
        self.producer.write(EVENTS, partition, &garbage(None));
        self.producer.write(CONTENT, 0, &garbage(Some("poison")));
    }

    /// `verify` finds no difference and excuses nothing but the poison; and the
    /// copy of the content, which it does not look at, is the content.
    pub fn is_clean(&self) {
        let report = verify(self.stack);
        for check in report["checks"].as_array().expect("checks") {
            let excused = match check["check"].as_str() {
                Some("records") => self.poison.load(Ordering::Relaxed),
                _ => 0,
            };
            let clean = check["differences"] == 0 && check["excused"] == excused;
            assert!(clean && check["notes"] == json!([]), "{excused} {report:#}");
        }
        self.content_is_copied();
    }

    fn content_is_copied(&self) {
        let source =
            "SELECT string_agg(id || ' ' || coalesce(length_seconds, -1), ',' ORDER BY id::text)
                      FROM content";
        let copy = "SELECT arrayStringConcat(groupArray(row), ',') FROM
                        (SELECT concat(toString(id), ' ', toString(ifNull(length_seconds, -1))) AS row
                         FROM analytics.content FINAL WHERE _deleted = 0 ORDER BY toString(id))";
        let stores = &self.stack.stores;
        eventually("the content is copied", || {
            let copied = stores.clickhouse(copy).trim().to_owned();
            same(&stores.postgres_text(source), copied)
        });
    }
}

/// What `verify` says, which has to be that all is well.
fn verify(stack: &Stack) -> Json {
    stack.fanout.document(0, &["verify"])
}

/// Records that are excused by a dead letter.
fn excused(report: &Json) -> u64 {
    let checks = report["checks"].as_array().expect("checks");
    let records = checks.iter().find(|check| check["check"] == "records");
    records
        .and_then(|check| check["excused"].as_u64())
        .expect("a count")
}

/// Ends a load when dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
