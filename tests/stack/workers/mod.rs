//! Multiple workers of one project: they share the partitions and take over
//! from failed workers. Nothing is lost or undone, and a fenced worker
//! publishes nothing.

mod board;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{
        Event, PausedProcess, RunningCommand, Stack, Topics, Worker, check_equal, content,
        eventually, fetch_status, tail, wait_for,
    },
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "workers_share_the_partitions_as_members_join_and_leave",
        shared,
    ),
    ("a_paused_worker_makes_no_late_commit", late),
    (
        "one_worker_publishes_the_board_and_the_others_stand_by",
        board::lease,
    ),
    #[cfg(feature = "crash-points")]
    (
        "the_board_is_correct_after_the_clock_is_set_back",
        board::set_back,
    ),
    (
        "a_foreign_commit_to_the_board_group_is_corrected",
        board::stray_commits,
    ),
    (
        "enrichment_pending_in_a_killed_worker_is_done_by_the_next",
        pending_enrichment,
    ),
    ("a_slow_sink_stays_in_its_group", slow_sink),
    ("a_worker_that_does_not_drain_is_fenced", fenced),
    ("a_commit_without_a_response_is_abandoned", unanswered),
    ("a_truncate_halts_all_workers", truncate),
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// The sinks whose partitions are distributed across workers.
const SHARED_SINKS: [&str; 2] = ["clickhouse", "http"];

/// Starts another worker of the stack's project.
fn start_worker(stack: &Stack, arguments: &[&str]) -> Worker {
    Worker::start(stack, &stack.fanout, arguments)
}

/// Returns the HTTP address of the stack's pipeline.
fn pipeline_url(stack: &Stack) -> &str {
    stack.stores.url("FANOUT_HTTP_URL")
}

/// Returns the status of a sink on the worker at `url`, or null if it has none.
fn sink(url: &str, name: &str) -> Json {
    let status = fetch_status(url);
    let mut sinks = status["sinks"].as_array().into_iter().flatten();
    let sink = sinks.find(|sink| sink["name"] == name);
    sink.cloned().unwrap_or_default()
}

/// Returns the partitions assigned to a running sink of the worker at `url`.
fn assigned_partitions(url: &str, name: &str) -> Result<BTreeSet<i64>, String> {
    let sink = sink(url, name);
    if sink["state"] != "running" {
        return Err(format!("{url}: {sink}"));
    }
    let partitions = sink["partitions"].as_array().expect("partitions");
    let numbers = partitions
        .iter()
        .map(|partition| partition["partition"].as_i64());
    Ok(numbers.map(|number| number.expect("a number")).collect())
}

/// Waits until exactly these workers own all partitions, at least one each and
/// without overlap. Returns each worker's partitions by sink.
fn wait_for_distribution(workers: &[&str]) -> Vec<BTreeMap<&'static str, BTreeSet<i64>>> {
    eventually("the workers share the partitions", || {
        let mut all = Vec::new();
        for url in workers {
            let mut sinks = BTreeMap::new();
            for name in SHARED_SINKS {
                sinks.insert(name, assigned_partitions(url, name)?);
            }
            all.push(sinks);
        }
        for name in SHARED_SINKS {
            let mut numbers: Vec<i64> = all.iter().flat_map(|sinks| sinks[name].clone()).collect();
            numbers.sort_unstable();
            let idle = all.iter().any(|sinks| sinks[name].is_empty());
            if idle || numbers != [0, 1, 2] {
                return Err(format!("{all:?}"));
            }
        }
        Ok(all)
    })
}

/// Returns the partitions of a sink that were assigned and revoked, in order,
/// according to a worker's log.
fn reassignments(log: &str, sink: &str) -> (Vec<i64>, Vec<i64>) {
    let (mut assigned, mut revoked) = (Vec::new(), Vec::new());
    for line in log.lines() {
        // Some workers log JSON, others text.
        let line = line.replace(['"', '\\', ' '], "").replace(':', "=");
        if !line.contains(&format!("sink={sink}")) {
            continue;
        }
        let numbers = |key: &str| -> Vec<i64> {
            let rest = line.split_once(key).map_or("", |(_, rest)| rest);
            let rest = rest.trim_start_matches('[');
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ',');
            let list = rest[..end.unwrap_or(rest.len())].split(',');
            list.filter_map(|number| number.parse().ok()).collect()
        };
        if line.contains("partitionassigned") {
            assigned.extend(numbers("partition=").first());
        } else if line.contains("partitionsrevoked") {
            revoked.extend(numbers("partitions="));
        }
    }
    (assigned, revoked)
}

/// Returns the log of the stack's pipeline from byte `since` on.
fn pipeline_log(stack: &Stack, since: usize) -> String {
    let log = fs::read_to_string(stack.file("logs/pipeline.log")).expect("read the pipeline's log");
    log[since..].to_owned()
}

/// Asserts that `verify` succeeds and that every check has compared something.
fn assert_consistent(stack: &Stack) {
    let report = stack.fanout.document(0, &["verify"]);
    let checks = report["checks"].as_array().expect("checks");
    for check in checks {
        assert_ne!(check["compared"], 0, "{report:#}");
    }
}

/// Delays each response of the external system.
fn delay(stack: &Stack, milliseconds: u64) {
    let url = stack.stores.url("FANOUT_EXTERNAL_URL");
    let url = format!("{url}/faults?delay_ms={milliseconds}");
    let response = wait_for(reqwest::Client::new().put(url).send());
    assert_eq!(response.expect("reach the stub").status(), 200);
}

/// Calls `sample` repeatedly in a background thread while `work` runs. Returns
/// the samples, without consecutive duplicates.
fn observe<T: PartialEq + Send>(sample: impl Fn() -> T + Sync, work: impl FnOnce()) -> Vec<T> {
    let (seen, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let found = sample();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last() != Some(&found) {
                    seen.push(found);
                }
                drop(seen);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let _stop = StopOnDrop(&done);
        work();
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the sampling thread, even if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the worker has calls in flight to a slow external system.
fn wait_for_calls_in_flight(url: &str) {
    eventually("calls are in flight", || {
        let lag = sink(url, "http")["lag"].as_u64();
        (lag > Some(50))
            .then_some(())
            .ok_or_else(|| format!("{lag:?}"))
    });
}

fn load(stack: &Stack) -> RunningCommand {
    RunningCommand::start(stack, &["seed", "--rate", "200", "--content", "20"])
}

fn shared(stack: &Stack) {
    wait_for_distribution(&[pipeline_url(stack)]);
    let since = eventually("the log shows all assignments", || {
        let log = pipeline_log(stack, 0);
        let all = |name: &&str| reassignments(&log, name).0.len() >= 3;
        SHARED_SINKS
            .iter()
            .all(all)
            .then_some(log.len())
            .ok_or_else(|| log.clone())
    });
    let load = load(stack);
    let second = start_worker(stack, &[]);
    let two = wait_for_distribution(&[pipeline_url(stack), second.url()]);
    for name in SHARED_SINKS {
        let (assigned, revoked) = reassignments(&pipeline_log(stack, since), name);
        let expected: Vec<i64> = two[1][name].iter().copied().collect();
        assert_eq!(
            (assigned, revoked),
            (vec![], expected),
            "{name}: only the reassigned partitions moved"
        );
    }
    let third = start_worker(stack, &[]);
    let three = wait_for_distribution(&[pipeline_url(stack), second.url(), third.url()]);
    for name in SHARED_SINKS {
        let (assigned, revoked) = reassignments(&second.log(), name);
        let is_kept = three[1][name]
            .iter()
            .all(|number| two[1][name].contains(number));
        assert!(
            is_kept && assigned.len() == two[1][name].len(),
            "{two:?}\n{three:?}"
        );
        assert_eq!(
            revoked.len(),
            assigned.len() - three[1][name].len(),
            "{name}"
        );
    }
    let stopped = second.stop();
    assert_eq!(stopped["drained"], true, "{stopped:#}");
    wait_for_distribution(&[pipeline_url(stack), third.url()]);
    for name in SHARED_SINKS {
        let (assigned, revoked) = reassignments(&third.log(), name);
        let distinct: BTreeSet<i64> = assigned.iter().copied().collect();
        assert_eq!(
            distinct.len(),
            assigned.len(),
            "{name} {assigned:?} {revoked:?}"
        );
    }
    third.kill();
    wait_for_distribution(&[pipeline_url(stack)]);
    load.stop();
    assert_consistent(stack);
}

/// Returns the committed offsets by group and partition.
fn commits(stack: &Stack) -> Vec<(&'static str, Vec<i64>)> {
    let topics = Topics::new(stack);
    let groups = ["fanout-clickhouse", "fanout-http"];
    let commits = groups.map(|group| {
        let commits = topics.commits(group, EVENTS).into_iter();
        (group, commits.map(|(offset, _)| offset).collect())
    });
    commits.to_vec()
}

/// Asserts that committed offsets never decrease.
fn assert_never_decreasing(seen: &[Vec<(&'static str, Vec<i64>)>]) {
    for (before, after) in seen.iter().zip(&seen[1..]) {
        for ((group, before), (_, after)) in before.iter().zip(after) {
            let has_decreased = before
                .iter()
                .zip(after)
                .any(|(previous, next)| next < previous);
            assert!(
                !has_decreased,
                "{group}: offsets decreased: {before:?} {after:?}"
            );
        }
    }
}

/// Pauses a worker with calls in flight for longer than its session timeout.
fn late(stack: &Stack) {
    let second = start_worker(stack, &["--sinks", "clickhouse,http"]);
    wait_for_distribution(&[pipeline_url(stack), second.url()]);
    let seen = observe(
        || commits(stack),
        || {
            delay(stack, 2_000);
            let seed = ["seed", "--events", "400", "--content", "20"];
            stack.fanout.run(&seed).ends_with(0);
            wait_for_calls_in_flight(second.url());
            second.pause();
            wait_for_distribution(&[pipeline_url(stack)]);
            delay(stack, 0);
            let ends = Topics::new(stack).end_offsets(EVENTS);
            eventually("the other worker has processed the partitions", || {
                let all = commits(stack);
                let is_done = all.iter().all(|(_, next)| *next == ends);
                is_done
                    .then_some(())
                    .ok_or_else(|| format!("{ends:?} {all:?}"))
            });
            second.resume();
            wait_for_distribution(&[pipeline_url(stack), second.url()]);
        },
    );
    assert!(
        second.log().contains("partition lost"),
        "{}",
        second.log_tail()
    );
    assert_never_decreasing(&seen);
    let applied = || sink(second.url(), "http")["applied"].as_u64();
    let before = applied();
    let load = load(stack);
    eventually("the resumed worker makes progress", || {
        let now = applied();
        (now > before)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    load.stop();
    second.stop();
    wait_for_distribution(&[pipeline_url(stack)]);
    assert_consistent(stack);
}

/// Returns the enrichment progress of each partition, from the commit metadata.
fn enrichment_progress(stack: &Stack) -> Vec<i64> {
    let commits = Topics::new(stack).commits("fanout-clickhouse", EVENTS);
    let reached = commits.iter().map(|(_, metadata)| {
        let metadata: Json = serde_json::from_str(metadata).expect("metadata");
        metadata["c"][0].as_i64().expect("an offset")
    });
    reached.collect()
}

fn pending_enrichment(stack: &Stack) {
    let content = content(stack, 100);
    let events = 20;
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
         SELECT '{content}', 'play', now(), 65000, 'ios' FROM generate_series(1, {events})"
    ));
    let rows = |percent: &str| {
        let found = stack
            .stores
            .rows("analytics", &format!("content_id = '{content}'"));
        let count = found
            .iter()
            .filter(|row| row["engagement_pct"] == percent)
            .count();
        check_equal(&events, count)
    };
    eventually("the rows are enriched", || rows("0.65"));
    let clickhouse = stack.pid("clickhouse");
    let other = start_worker(stack, &["--sinks", "clickhouse"]);
    eventually("the other worker has partitions", || {
        let partitions = assigned_partitions(other.url(), "clickhouse")?;
        (!partitions.is_empty())
            .then_some(())
            .ok_or_else(String::new)
    });
    let topics = Topics::new(stack);
    let before = topics.end_offsets(CONTENT);
    let paused = PausedProcess::new(clickhouse);
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 650 WHERE id = '{content}'"
    ));
    let end = eventually("the change is in the log", || {
        let now = topics.end_offsets(CONTENT);
        (now > before)
            .then_some(now[0])
            .ok_or_else(|| format!("{now:?}"))
    });
    // Both workers are in the middle of enriching. Kill them, and ClickHouse
    // with the queries that they started.
    stack.kill("pipeline");
    other.kill();
    kill(clickhouse, Signal::SIGKILL).expect("kill ClickHouse");
    drop(paused);
    let pending = enrichment_progress(stack);
    assert!(
        pending.iter().all(|reached| *reached < end),
        "{pending:?} {end}"
    );
    stack.fanout.run(&["up", "--no-run"]).ends_with(0);
    eventually("the rows are unchanged", || rows("0.65"));
    let next = start_worker(stack, &["--sinks", "clickhouse"]);
    eventually("the next worker enriches the rows", || rows("0.1"));
    eventually("the commits show the progress", || {
        let reached = enrichment_progress(stack);
        let all = reached.iter().all(|reached| *reached >= end);
        all.then_some(())
            .ok_or_else(|| format!("{reached:?} {end}"))
    });
    next.stop();
    stack.repair();
    assert_consistent(stack);
}

fn slow_sink(stack: &Stack) {
    let topics = Topics::new(stack);
    let members = || topics.members("fanout-http");
    let before = eventually("the group is stable", members);
    let since = pipeline_log(stack, 0).len();
    delay(stack, 3_000);
    let seed = ["seed", "--events", "300", "--content", "20"];
    stack.fanout.run(&seed).ends_with(0);
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    let lag = || sink(pipeline_url(stack), "http")["lag"].as_u64();
    eventually("the lag is reported", || {
        let lag = lag();
        (lag > Some(64))
            .then_some(())
            .ok_or_else(|| format!("{lag:?}"))
    });
    let clickhouse = sink(pipeline_url(stack), "clickhouse");
    assert_eq!(clickhouse["state"], "running", "{clickhouse}");
    eventually("the sink has caught up", || check_equal(&Some(0), lag()));
    delay(stack, 0);
    assert_eq!(members(), Ok(before));
    assert_eq!(
        reassignments(&pipeline_log(stack, since), "http"),
        (vec![], vec![])
    );
    assert_consistent(stack);
}

/// The work in flight takes longer than the rebalance timeout.
fn fenced(stack: &Stack) {
    wait_for_distribution(&[pipeline_url(stack)]);
    let since = pipeline_log(stack, 0).len();
    let applied = || sink(pipeline_url(stack), "http")["applied"].as_u64();
    let before = applied();
    delay(stack, 6_000);
    // While the first calls are in flight, the rest of the events queue up.
    for events in ["30", "1500"] {
        let seed = ["seed", "--events", events, "--content", "20"];
        stack.fanout.run(&seed).ends_with(0);
    }
    eventually("the worker has read the rest", || {
        let now = applied();
        (now > before)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    let second = start_worker(stack, &["--sinks", "http"]);
    let seen = observe(
        || commits(stack),
        || {
            eventually("the other worker gets partitions anyway", || {
                let partitions = assigned_partitions(second.url(), "http")?;
                (!partitions.is_empty())
                    .then_some(())
                    .ok_or_else(|| "none".to_owned())
            });
            delay(stack, 0);
            let ends = Topics::new(stack).end_offsets(EVENTS);
            eventually("both workers catch up", || {
                check_equal(&ends, commits(stack)[1].1.clone())
            });
        },
    );
    let log = pipeline_log(stack, since);
    let mut lost = log.lines().filter(|line| line.contains("partition lost"));
    assert!(lost.any(|line| line.contains("http")), "{log}");
    assert_never_decreasing(&seen);
    second.stop();
    wait_for_distribution(&[pipeline_url(stack)]);
    assert_consistent(stack);
}

/// Pauses the broker with calls in flight for longer than a commit may take. A
/// worker must not wait forever for a response that librdkafka may have
/// dropped. If no commit was in flight when the broker was paused, the test
/// tries again.
fn unanswered(stack: &Stack) {
    wait_for_distribution(&[pipeline_url(stack)]);
    let is_abandoned = (0..5).any(|_| {
        let since = pipeline_log(stack, 0).len();
        delay(stack, 3_000);
        let seed = ["seed", "--events", "400", "--content", "20"];
        stack.fanout.run(&seed).ends_with(0);
        wait_for_calls_in_flight(pipeline_url(stack));
        let paused = PausedProcess::new(stack.pid("kafka"));
        // The calls finish within the session timeout, and their offsets are
        // committed.
        delay(stack, 0);
        let is_abandoned = (0..60).any(|_| {
            thread::sleep(Duration::from_millis(500));
            pipeline_log(stack, since).contains("commit timed out")
        });
        drop(paused);
        wait_for_distribution(&[pipeline_url(stack)]);
        is_abandoned
    });
    assert!(is_abandoned, "{}", tail(&pipeline_log(stack, 0), 30));
    let topics = Topics::new(stack);
    for group in ["fanout-clickhouse", "fanout-http"] {
        eventually("the abandoned consumer has left the group", || {
            check_equal(&1, topics.members(group)?.len())
        });
    }
    stack.wait_until_healthy();
    assert_consistent(stack);
}

fn truncate(stack: &Stack) {
    let second = start_worker(stack, &[]);
    wait_for_distribution(&[pipeline_url(stack), second.url()]);
    stack.stores.postgres("TRUNCATE engagement_events");
    for url in [pipeline_url(stack), second.url()] {
        eventually("the sink halts", || {
            let sink = sink(url, "clickhouse");
            let halted = sink["halt"]["code"] == "truncated";
            let remedy = sink["halt"]["remedy"].as_str().unwrap_or_default();
            (halted && remedy.starts_with("fanout backfill"))
                .then_some(())
                .ok_or_else(|| sink.to_string())
        });
    }
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    event.wait_for_delivery();
    let third = start_worker(stack, &["--sinks", "clickhouse"]);
    eventually("a worker started later also halts", || {
        let sink = sink(third.url(), "clickhouse");
        check_equal(&Json::from("truncated"), sink["halt"]["code"].clone())
    });
    third.stop();
    stack
        .fanout
        .run(&[
            "backfill", "--from", "earliest", "--source", "database", "--prune",
        ])
        .ends_with(0);
    wait_for_distribution(&[pipeline_url(stack), second.url()]);
    event.wait_for_column("engagement_pct", &Json::from("0.65"));
    assert_consistent(stack);
    second.stop();
    wait_for_distribution(&[pipeline_url(stack)]);
    stack.wait_until_healthy();
}
