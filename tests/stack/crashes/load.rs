//! Generates changes of every kind while a process is driven to its crash: new
//! events, updates, deletes, content that changes after its events, and
//! undecodable records. Checks the stores afterwards.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{Producer, Record, Stack, check_equal, content, eventually};

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// Interval between two steps, longer than the batch delay.
const PAUSE: Duration = Duration::from_millis(300);

/// Load on the source, and undecodable records written directly into the
/// topics.
pub struct Load<'a> {
    stack: &'a Stack,
    producer: Producer,
    contents: Vec<Uuid>,
    steps: AtomicU64,
    /// Number of undecodable records in the events topic.
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

    /// Generates load while `work` runs.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    self.step();
                    thread::sleep(PAUSE);
                }
            });
            // Stops the load even if `work` fails.
            let _stop = StopOnDrop(&is_done);
            work()
        })
    }

    /// Writes events and undecodable records. Changes a content of the events
    /// separately afterwards.
    fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let content_id = |number: usize| self.contents[number % self.contents.len()];
        let offset = usize::try_from(step).unwrap_or_default();
        let rows = (0..9).map(|number| {
            let duration = 1000 + number * 1000;
            format!(
                "('{}', 'play', now(), {duration}, 'crash')",
                content_id(offset + number)
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
            content_id(offset)
        ));
    }

    fn poison(&self) {
        let step = self.poison.fetch_add(1, Ordering::Relaxed);
        let partition = i32::try_from(step % 3).unwrap_or_default();
        let undecodable = |key: Option<&str>| Record {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: Some(b"{".to_vec()),
        };
        self.producer.write(EVENTS, partition, &undecodable(None));
        self.producer
            .write(CONTENT, 0, &undecodable(Some("poison")));
    }

    /// Asserts that `verify` finds no difference and excuses only the
    /// undecodable records, and that the copy of the content, which `verify`
    /// does not check, is complete.
    pub fn assert_consistent(&self) {
        let report = verify(self.stack);
        for check in report["checks"].as_array().expect("checks") {
            let excused = match check["check"].as_str() {
                Some("records") => self.poison.load(Ordering::Relaxed),
                _ => 0,
            };
            let is_consistent = check["differences"] == 0 && check["excused"] == excused;
            assert!(
                is_consistent && check["notes"] == json!([]),
                "{excused} {report:#}"
            );
        }
        self.wait_for_content_copy();
    }

    fn wait_for_content_copy(&self) {
        let source =
            "SELECT string_agg(id || ' ' || coalesce(length_seconds, -1), ',' ORDER BY id::text)
                      FROM content";
        let copy = "SELECT arrayStringConcat(groupArray(row), ',') FROM
                        (SELECT concat(toString(id), ' ', toString(ifNull(length_seconds, -1))) AS row
                         FROM analytics.content FINAL WHERE _deleted = 0 ORDER BY toString(id))";
        let stores = &self.stack.stores;
        eventually("the content is copied", || {
            let copied = stores.clickhouse(copy).trim().to_owned();
            check_equal(&stores.postgres_text(source), copied)
        });
    }
}

/// Runs `verify`, which must find no difference, and returns its report.
fn verify(stack: &Stack) -> Json {
    stack.fanout.document(0, &["verify"])
}

/// Returns the number of records that dead letters excuse.
fn excused(report: &Json) -> u64 {
    let checks = report["checks"].as_array().expect("checks");
    let records = checks.iter().find(|check| check["check"] == "records");
    records
        .and_then(|check| check["excused"].as_u64())
        .expect("a count")
}

/// Stops the load when dropped.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
