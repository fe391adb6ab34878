//! Crash points of the sinks. Different sinks are killed at the same time, each
//! in its own process. The two sinks that write to ClickHouse, events and
//! content, share a process.

use std::time::{Duration, Instant};

use super::{Load, Point, SESSION, Trigger, armed, assert_recovery, points, workers};
use crate::support::{CrashingCommand, Stack, Worker, eventually, set_faults};

/// The processes with the sinks whose crash points each of them passes.
const PROCESSES: [(&str, &[&str]); 3] = [
    ("clickhouse", &["clickhouse", "content"]),
    ("http", &["http"]),
    ("redis", &["redis"]),
];

/// How long another worker stays in the group to cause a rebalance.
const STAY: Duration = Duration::from_secs(10);

/// A batch delay in ms that is never reached, so that a batch stays open until
/// the sink drains.
const ONE_HOUR_MS: &str = "3600000";

/// The sinks of a `fanout run` process and the crash point at which the process
/// is killed.
type Victim = (&'static str, Point);

/// Returns the crash points with this trigger in rounds of one point per
/// process.
fn rounds(trigger: Trigger) -> Vec<Vec<Victim>> {
    let all = points(trigger);
    let queues = PROCESSES.map(|(sinks, modules)| {
        let matching = all.iter().filter(|(module, _)| modules.contains(module));
        matching
            .map(|point| (sinks, *point))
            .collect::<Vec<Victim>>()
    });
    let longest = queues.iter().map(Vec::len).max().unwrap_or_default();
    let round = |number: usize| {
        let victims = queues.iter().filter_map(|queue| queue.get(number).copied());
        victims.collect()
    };
    (0..longest).map(round).collect()
}

pub fn each_step(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    for victims in rounds(Trigger::Load) {
        load.during(|| {
            let processes: Vec<CrashingCommand> = victims
                .iter()
                .map(|(sinks, point)| {
                    let fanout = armed(&workers(stack), *point);
                    CrashingCommand::start(
                        stack,
                        &fanout,
                        &["run", "--http-addr", "127.0.0.1:0", "--sinks", sinks],
                    )
                })
                .collect();
            for (process, (_, point)) in processes.into_iter().zip(&victims) {
                process.wait_for_crash(*point);
            }
        });
        assert_recovery(stack, &load);
    }
    stack.repair();
}

/// Starts a worker whose batches wait until its partitions are revoked or
/// drained.
fn start_hoarder(stack: &Stack, (sinks, point): Victim) -> Worker {
    let fanout = armed(&workers(stack), point).with("FANOUT_CLICKHOUSE_BATCH_MS", ONE_HOUR_MS);
    Worker::start(stack, &fanout, &["--sinks", sinks])
}

/// Waits until the worker runs and has records in flight.
fn wait_until_busy(worker: &Worker, (module, step): Point) {
    eventually(&format!("{module} is busy before {step}"), || {
        let sink = worker.sink(module);
        let has_records = module == "redis" || sink["lag"].as_u64() > Some(0);
        let is_busy = sink["state"] == "running" && has_records;
        is_busy.then_some(()).ok_or_else(|| sink.to_string())
    });
}

pub fn clean_shutdowns(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    for victims in rounds(Trigger::End) {
        load.during(|| {
            let processes: Vec<Worker> = victims
                .iter()
                .map(|victim| start_hoarder(stack, *victim))
                .collect();
            for (worker, (_, point)) in processes.into_iter().zip(&victims) {
                wait_until_busy(&worker, *point);
                worker.stop_until_crash(*point);
            }
        });
        assert_recovery(stack, &load);
    }
    stack.repair();
}

pub fn rebalances(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    let url = stack.stores.url("FANOUT_EXTERNAL_URL");
    // Slow calls ensure that some are in flight whenever a partition is
    // revoked.
    set_faults(url, "delay_ms=800");
    for victims in rounds(Trigger::Rebalance) {
        load.during(|| {
            let processes: Vec<Worker> = victims
                .iter()
                .map(|victim| start_hoarder(stack, *victim))
                .collect();
            for (worker, (sinks, point)) in processes.into_iter().zip(&victims) {
                wait_until_busy(&worker, *point);
                join_until_crash(stack, worker, sinks, *point);
            }
        });
        assert_recovery(stack, &load);
    }
    set_faults(url, "");
    stack.repair();
}

pub fn lost_sessions(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    for victims in rounds(Trigger::Lost) {
        load.during(|| {
            for (sinks, point) in victims {
                let worker = start_hoarder(stack, (sinks, point));
                wait_until_busy(&worker, point);
                worker.pause();
                std::thread::sleep(2 * SESSION);
                worker.resume();
                worker.wait_for_crash(point);
            }
        });
        assert_recovery(stack, &load);
    }
    stack.repair();
}

/// Lets other workers join and leave the group until the worker has crashed.
fn join_until_crash(stack: &Stack, mut worker: Worker, sinks: &str, point: Point) {
    for _ in 0..6 {
        let other = Worker::start(stack, &workers(stack), &["--sinks", sinks]);
        let deadline = Instant::now() + STAY;
        while worker.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        other.stop();
        if !worker.is_alive() {
            break;
        }
    }
    worker.wait_for_crash(point);
}
