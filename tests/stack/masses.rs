//! More dead letters than fit into one statement, or into memory. It takes
//! minutes: `make nightly` runs it, on a stack of its own.

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
    support::{Stack, eventually, trials::leave_out},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[(
    "any_number_of_dead_letters_is_verified_replayed_and_purged",
    letters,
)];

/// Events that every sink rejects. ClickHouse takes the ids of 25,000 or so in
/// one statement.
const EVENTS: u64 = 30_000;

/// What a command may hold at most; 160 MiB were seen. The letters are of about
/// 150 MiB, and would take twice as much as objects.
const MOST_KIB: u64 = 240 * 1024;

const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

fn letters(stack: &Stack) {
    if env::var_os("FANOUT_TEST_NIGHTLY").is_none() {
        leave_out("it takes minutes: `make nightly` runs it");
    }
    let before = counted(stack);
    let made = Made(stack);
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (event_type, event_ts, device, raw_payload)
         SELECT 'click', 'infinity', 'web', jsonb_build_object('padding', repeat('x', 400))
         FROM generate_series(1, {EVENTS})"
    ));
    eventually("every sink has rejected them all", || {
        let counts = counted(stack);
        let are_there = |sink: usize| counts[sink] == before[sink] + EVENTS;
        if (0..SINKS.len()).all(are_there) {
            return Ok(());
        }
        Err(format!("{before:?}, then {counts:?}"))
    });

    let report = bounded(stack, &["verify", "--timeout", "300s"]);
    for check in ["rows", "records"] {
        let excused = excused(&report, check);
        assert!(excused >= EVENTS, "{check}: {excused} of {EVENTS}");
    }

    let report = bounded(stack, &["dlq", "replay", "--yes"]);
    let rejected = report["done"]["still_rejected_count"].as_u64();
    let rejected = rejected.expect("a number");
    let all: u64 = counted(stack).iter().sum();
    assert!(
        // The board is built anew instead.
        (2 * EVENTS..=all).contains(&rejected),
        "{rejected} of {all}"
    );

    let report = bounded(stack, &["dlq", "purge", "--yes"]);
    assert_eq!(report["done"]["letters"], all);
    assert_eq!(counted(stack), [0; 3]);
    bounded(stack, &["verify", "--timeout", "300s"]);

    drop(made);
    bounded(stack, &["verify", "--timeout", "300s"]);
}

/// The events in the source, until dropped: what comes after starts without
/// them, whatever has failed.
struct Made<'a>(&'a Stack);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let delete = "DELETE FROM engagement_events WHERE event_ts = 'infinity'";
        self.0.stores.postgres(delete);
    }
}

/// How many dead letters of each sink `status` has counted.
fn counted(stack: &Stack) -> [u64; 3] {
    let letters = stack.status()["dead_letters"].clone();
    SINKS.map(|sink| {
        let codes = letters["counts"][sink].as_object().into_iter().flatten();
        codes.filter_map(|(_, count)| count.as_u64()).sum()
    })
}

/// What dead letters excuse in one of `verify`'s checks.
fn excused(report: &Json, check: &str) -> u64 {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|found| found["check"] == check);
    let excused = found.and_then(|found| found["excused"].as_u64());
    excused.unwrap_or_else(|| panic!("no {check} in {report:#}"))
}

/// The document of a call that succeeds within its memory.
fn bounded(stack: &Stack, arguments: &[&str]) -> Json {
    let mut command = stack.fanout.command(&["--output", "json"]);
    let mut child = command
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let said = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let (code, peak) = peak(&mut child);
    let text = said.join().expect("a reader").expect("readable");
    let document: Json = serde_json::from_str(&text).expect("a document");
    assert_eq!(code, Some(0), "{arguments:?}: {document:#}");
    println!("{arguments:?} took {} MiB at most", peak / 1024);
    assert!(peak < MOST_KIB, "{arguments:?} took {peak} KiB");
    document
}

/// How a process ended, and the most memory that it was seen to have had, in
/// KiB.
fn peak(child: &mut Child) -> (Option<i32>, u64) {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(now.unwrap_or_default());
        if let Some(ended) = child.try_wait().expect("a child") {
            return (ended.code(), peak);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
