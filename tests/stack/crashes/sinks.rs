//! The loops of the sinks. Those of different sinks are killed at the same
//! time, each in a process of its own; what feeds ClickHouse, events and
//! content, is one process.

use std::time::{Duration, Instant};

use super::{Load, Point, SESSION, Way, armed, points, recovers, workers};
use crate::support::{Doomed, Stack, Worker, eventually, set_faults};

/// The processes, and whose points are passed in each.
const PROCESSES: [(&str, &[&str]); 3] = [
    ("clickhouse", &["clickhouse", "content"]),
    ("http", &["http"]),
    ("redis", &["redis"]),
];

/// How long another worker stays for what it should bring about.
const STAY: Duration = Duration::from_secs(10);

/// So many ms a batch waits for company: until it is told not to.
const FOR_EVER: &str = "3600000";

/// A process of `fanout run` and the point that it dies at.
type Victim = (&'static str, Point);

/// The points of a way, as many at a time as there are processes.
fn rounds(way: Way) -> Vec<Vec<Victim>> {
    let all = points(way);
    let queues = PROCESSES.map(|(sinks, whose)| {
        let own = all.iter().filter(|(who, _)| whose.contains(who));
        own.map(|point| (sinks, *point)).collect::<Vec<Victim>>()
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
    for victims in rounds(Way::Load) {
        load.during(|| {
            let doomed: Vec<Doomed> = victims
                .iter()
                .map(|(sinks, point)| {
                    let fanout = armed(&workers(stack), *point);
                    Doomed::start(
                        stack,
                        &fanout,
                        &["run", "--http-addr", "127.0.0.1:0", "--sinks", sinks],
                    )
                })
                .collect();
            for (doomed, (_, point)) in doomed.into_iter().zip(&victims) {
                doomed.dies_at(*point);
            }
        });
        recovers(stack, &load);
    }
    stack.mend();
}

/// A worker whose batches wait until it has to let its partitions go.
fn hoarder(stack: &Stack, (sinks, point): Victim) -> Worker {
    let fanout = armed(&workers(stack), point).with("FANOUT_CLICKHOUSE_BATCH_MS", FOR_EVER);
    Worker::start(stack, &fanout, &["--sinks", sinks])
}

/// Waits until it runs and has something in hand.
fn is_at_work(worker: &Worker, (who, step): Point) {
    eventually(&format!("{who} is at work for {step}"), || {
        let sink = worker.sink(who);
        let in_hand = who == "redis" || sink["lag"].as_u64() > Some(0);
        let at_work = sink["state"] == "running" && in_hand;
        at_work.then_some(()).ok_or_else(|| sink.to_string())
    });
}

pub fn orderly_ends(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    for victims in rounds(Way::End) {
        load.during(|| {
            let doomed: Vec<Worker> = victims.iter().map(|one| hoarder(stack, *one)).collect();
            for (worker, (_, point)) in doomed.into_iter().zip(&victims) {
                is_at_work(&worker, *point);
                worker.dies_told_to_stop(*point);
            }
        });
        recovers(stack, &load);
    }
    stack.mend();
}

pub fn rebalances(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    let url = stack.stores.url("FANOUT_EXTERNAL_URL");
    // So that there is something in flight whenever a partition is revoked.
    set_faults(url, "delay_ms=800");
    for victims in rounds(Way::Rebalance) {
        load.during(|| {
            let doomed: Vec<Worker> = victims.iter().map(|one| hoarder(stack, *one)).collect();
            for (worker, (sinks, point)) in doomed.into_iter().zip(&victims) {
                is_at_work(&worker, *point);
                dies_when_joined(stack, worker, sinks, *point);
            }
        });
        recovers(stack, &load);
    }
    set_faults(url, "");
    stack.mend();
}

pub fn lost_sessions(stack: &Stack) {
    let load = Load::new(stack);
    stack.kill("pipeline");
    for victims in rounds(Way::Lost) {
        load.during(|| {
            for (sinks, point) in victims {
                let worker = hoarder(stack, (sinks, point));
                is_at_work(&worker, point);
                worker.pause();
                std::thread::sleep(2 * SESSION);
                worker.resume();
                worker.dies_at(point);
            }
        });
        recovers(stack, &load);
    }
    stack.mend();
}

/// Others come and go until a worker has died of it. One of them has the
/// partitions then.
fn dies_when_joined(stack: &Stack, mut worker: Worker, sinks: &str, point: Point) {
    for _ in 0..6 {
        let other = Worker::start(stack, &workers(stack), &["--sinks", sinks]);
        let until = Instant::now() + STAY;
        while worker.is_alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        other.stop();
        if !worker.is_alive() {
            break;
        }
    }
    worker.dies_at(point);
}
