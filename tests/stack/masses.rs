//! More dead letters than fit into one statement or into memory. The test takes
//! minutes; `make nightly` runs it on a separate stack.

use std::{
    env, fs,
    io::Read as _,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Stack, eventually, trials::skip},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[(
    "many_dead_letters_are_verified_replayed_and_purged_in_bounded_memory",
    dead_letters,
)];

/// Number of events, all of which every sink rejects. One ClickHouse statement
/// can contain about 25,000 ids.
const EVENTS: u64 = 30_000;

/// Memory limit of a command; 160 MiB were measured. The dead letters have
/// about 150 MiB, and would need twice as much as JSON objects.
const MAX_KIB: u64 = 240 * 1024;

const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

fn dead_letters(stack: &Stack) {
    if env::var_os("FANOUT_TEST_NIGHTLY").is_none() {
        skip("the test takes minutes; `make nightly` runs it");
    }
    let before = dead_letter_counts(stack);
    let events = RejectedEvents(stack);
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (event_type, event_ts, device, raw_payload)
         SELECT 'click', 'infinity', 'web', jsonb_build_object('padding', repeat('x', 400))
         FROM generate_series(1, {EVENTS})"
    ));
    eventually("every sink has rejected all events", || {
        let counts = dead_letter_counts(stack);
        let has_all = |sink: usize| counts[sink] == before[sink] + EVENTS;
        if (0..SINKS.len()).all(has_all) {
            return Ok(());
        }
        Err(format!("{before:?}, then {counts:?}"))
    });

    let report = run_in_bounded_memory(stack, &["verify", "--timeout", "300s"]);
    for check in ["rows", "records"] {
        let excused = excused(&report, check);
        assert!(excused >= EVENTS, "{check}: {excused} of {EVENTS}");
    }

    let report = run_in_bounded_memory(stack, &["dlq", "replay", "--yes"]);
    let rejected = report["done"]["still_rejected_count"].as_u64();
    let rejected = rejected.expect("a number");
    let all: u64 = dead_letter_counts(stack).iter().sum();
    assert!(
        // The board is rebuilt instead.
        (2 * EVENTS..=all).contains(&rejected),
        "{rejected} of {all}"
    );

    let report = run_in_bounded_memory(stack, &["dlq", "purge", "--yes"]);
    assert_eq!(report["done"]["letters"], all);
    assert_eq!(dead_letter_counts(stack), [0; 3]);
    run_in_bounded_memory(stack, &["verify", "--timeout", "300s"]);

    drop(events);
    run_in_bounded_memory(stack, &["verify", "--timeout", "300s"]);
}

/// The rejected events in the source. Deleted when dropped, so that later tests
/// start without them even if this one fails.
struct RejectedEvents<'a>(&'a Stack);

impl Drop for RejectedEvents<'_> {
    fn drop(&mut self) {
        let delete = "DELETE FROM engagement_events WHERE event_ts = 'infinity'";
        self.0.stores.postgres(delete);
    }
}

/// Returns the number of dead letters of each sink, according to `status`.
fn dead_letter_counts(stack: &Stack) -> [u64; 3] {
    let dead_letters = stack.status()["dead_letters"].clone();
    SINKS.map(|sink| {
        let codes = dead_letters["counts"][sink]
            .as_object()
            .into_iter()
            .flatten();
        codes.filter_map(|(_, count)| count.as_u64()).sum()
    })
}

/// Returns the differences that dead letters excuse in one of `verify`'s
/// checks.
fn excused(report: &Json, check: &str) -> u64 {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|found| found["check"] == check);
    let excused = found.and_then(|found| found["excused"].as_u64());
    excused.unwrap_or_else(|| panic!("no {check} in {report:#}"))
}

/// Runs a command within the memory limit and returns its document.
fn run_in_bounded_memory(stack: &Stack, arguments: &[&str]) -> Json {
    let mut command = stack.fanout.command(&["--output", "json"]);
    let mut child = command
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the binary");
    let mut stdout = child.stdout.take().expect("a pipe");
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let (code, peak) = wait_with_peak(&mut child);
    let text = reader
        .join()
        .expect("join the reader")
        .expect("read stdout");
    let document: Json = serde_json::from_str(&text).expect("a document");
    assert_eq!(code, Some(0), "{arguments:?}: {document:#}");
    println!("{arguments:?} used at most {} MiB", peak / 1024);
    assert!(peak < MAX_KIB, "{arguments:?} used {peak} KiB");
    document
}

/// Waits for a process. Returns its exit code and the highest memory usage that
/// was observed, in KiB.
fn wait_with_peak(child: &mut Child) -> (Option<i32>, u64) {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let current = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(current.unwrap_or_default());
        if let Some(ended) = child.try_wait().expect("a child") {
            return (ended.code(), peak);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
