//! Causes the scheduled faults, and repairs them as an operator would.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread::Scope,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use crate::{
    reader,
    recovery::Recoveries,
    schedule::{Entry, ExternalFault, Fault, Mode, Service},
    stage::{DisturbanceId, Stage, wait_until},
    support::PausedProcess,
    workers::Workers,
};

/// Time limit for a repair, which is retried.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a fault may still have effects after it has ended.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The minimum age of an old dump.
const DUMP_AGE: Duration = Duration::from_secs(7);

pub struct Faults<'a> {
    pub stage: &'a Stage,
    pub workers: &'a Workers<'a>,
    pub recoveries: &'a Recoveries,
    /// Held while a server is down, so that only one server is down at a time.
    servers: Mutex<()>,
    counts: Mutex<BTreeMap<String, u64>>,
}

/// The start or the end of a fault.
struct Step {
    at: Duration,
    number: usize,
    fault: Fault,
    is_start: bool,
}

impl<'a> Faults<'a> {
    pub fn new(stage: &'a Stage, workers: &'a Workers<'a>, recoveries: &'a Recoveries) -> Self {
        Self {
            stage,
            workers,
            recoveries,
            servers: Mutex::new(()),
            counts: Mutex::default(),
        }
    }

    /// Returns how often each fault occurred.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    fn record(&self, fault: Fault) {
        self.stage.log(&fault.to_string());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(fault.to_string()).or_default() += 1;
    }

    /// Breaks servers one after the other. Each fault waits until the previous
    /// server has recovered.
    pub fn break_servers(&self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.fault.is_server()) {
            self.stage.sleep_until(entry.at);
            if self.stage.is_over() {
                return;
            }
            match entry.fault {
                Fault::Kill(service) => self.kill(service, entry),
                Fault::Freeze(service) => self.freeze(service, entry),
                _ => {}
            }
        }
    }

    fn kill(&self, service: Service, entry: &Entry) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.record(entry.fault);
        let disturbance = self.stage.begin_disturbance();
        let signal = match service {
            // An immediate shutdown, as with `pg_ctl stop -m immediate`.
            Service::Postgres => Signal::SIGQUIT,
            _ => Signal::SIGKILL,
        };
        let pid = self.stage.stack.pid(service.name());
        kill(pid, signal).expect("kill the server");
        self.stage
            .sleep_until(self.stage.start.elapsed() + entry.duration);
        let since = Instant::now();
        self.repair_stack();
        let took = since.elapsed().as_secs_f64();
        self.stage.log(&format!("fanout up took {took:.1} s"));
        drop(servers);
        self.measure_recovery(service.name(), since, disturbance);
    }

    fn freeze(&self, service: Service, entry: &Entry) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.record(entry.fault);
        let disturbance = self.stage.begin_disturbance();
        let pid = self.stage.stack.pid(service.name());
        let paused = PausedProcess::new(pid);
        self.stage
            .sleep_until(self.stage.start.elapsed() + entry.duration);
        let since = Instant::now();
        drop(paused);
        drop(servers);
        self.measure_recovery(service.name(), since, disturbance);
    }

    /// Runs `fanout up`, repeatedly if another fault interferes.
    pub fn repair_stack(&self) {
        let outcome = wait_until(REPAIR_TIMEOUT, || {
            let up = self.stage.stack.fanout.run(&["up", "--no-run"]);
            match up.code {
                Some(0) => Ok(()),
                _ => Err(up.evidence()),
            }
        });
        if let Err(evidence) = outcome {
            self.stage
                .report(format!("fanout up does not repair the stack\n{evidence}"));
        }
    }

    /// Causes and ends all other faults on schedule.
    pub fn break_others<'scope>(&'scope self, entries: &[Entry], scope: &'scope Scope<'scope, '_>) {
        let mut paused_workers = BTreeMap::new();
        let mut disturbances = BTreeMap::new();
        for step in steps(entries) {
            self.stage.sleep_until(step.at);
            self.workers.replace_ended();
            if step.is_start {
                if self.stage.is_over() {
                    return;
                }
                self.record(step.fault);
                disturbances.insert(step.number, self.stage.begin_disturbance());
            }
            let disturbance = disturbances[&step.number];
            self.end_unmeasured(disturbance, &step);
            match (step.fault, step.is_start) {
                (Fault::Link(link, mode), true) => self.stage.set_link(link, mode),
                (Fault::Link(link, _), false) => self.stage.set_link(link, Mode::Pass),
                (Fault::External(fault), true) => self.stage.set_faults(fault_query(fault)),
                (Fault::External(_), false) => self.stage.set_faults(""),
                (Fault::Workers(count), true) => self.workers.set_count(count),
                (Fault::FreezeWorker, true) => {
                    paused_workers.insert(step.number, self.workers.pause_one());
                }
                (Fault::FreezeWorker, false) => {
                    self.workers.resume(paused_workers[&step.number]);
                    self.measure_worker(scope, disturbance);
                }
                (Fault::KillWorker, true) => {
                    self.workers.kill_one();
                    // The last worker must be replaced first.
                    if self.workers.count() > 0 {
                        self.measure_worker(scope, disturbance);
                    }
                }
                (Fault::KillWorker, false) => {
                    let was_last = self.workers.count() == 0;
                    self.workers.start_one();
                    if was_last {
                        self.measure_worker(scope, disturbance);
                    }
                }
                (Fault::FlushAll, true) => self.flush_all(),
                (Fault::OldDump, true) => {
                    scope.spawn(move || self.old_dump(disturbance));
                }
                _ => {}
            }
        }
    }

    /// Sets the end of a disturbance whose recovery is not measured.
    fn end_unmeasured(&self, disturbance: DisturbanceId, step: &Step) {
        if let (Fault::Link(..) | Fault::External(_), false)
        | (Fault::Workers(_) | Fault::FlushAll, true) = (step.fault, step.is_start)
        {
            self.stage
                .end_disturbance(disturbance, Instant::now() + AFTERMATH);
        }
    }

    /// Waits until the component, whose repair began at `since`, has recovered.
    fn measure_recovery(
        &self,
        component: &'static str,
        since: Instant,
        disturbance: DisturbanceId,
    ) {
        let Self {
            recoveries, stage, ..
        } = self;
        recoveries.measure(stage, component, since, disturbance);
    }

    /// Measures a worker's recovery in a separate thread, while the schedule
    /// continues.
    fn measure_worker<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        disturbance: DisturbanceId,
    ) {
        let since = Instant::now();
        scope.spawn(move || {
            let _guard = self.stage.end_on_panic();
            self.measure_recovery("worker", since, disturbance);
        });
    }

    fn flush_all(&self) {
        let url = self.stage.stack.stores.url("FANOUT_REDIS_URL");
        let flushed = wait_until(REPAIR_TIMEOUT, || {
            let mut connection = reader::connect(url).map_err(|error| error.to_string())?;
            let flushed = redis::cmd("FLUSHALL").exec(&mut connection);
            flushed.map_err(|error| error.to_string())
        });
        flushed.expect("redis");
    }

    /// Kills Redis and restores an older copy of its data.
    fn old_dump(&self, disturbance: DisturbanceId) {
        let _guard = self.stage.end_on_panic();
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.stage.stack.file("data/redis");
        let old = self.stage.stack.fanout.home().join("old-dump");
        let _ = fs::remove_dir_all(&old);
        copy(&data, &old);
        self.stage
            .sleep_until(self.stage.start.elapsed() + DUMP_AGE);
        let pid = self.stage.stack.pid("redis");
        kill(pid, Signal::SIGKILL).expect("kill redis");
        let ended = wait_until(REPAIR_TIMEOUT, || match kill(pid, None) {
            Ok(()) => Err("the process is still running".to_owned()),
            Err(_) => Ok(()),
        });
        ended.expect("the killed process ends");
        fs::remove_dir_all(&data).expect("remove the data");
        copy(&old, &data);
        let since = Instant::now();
        self.repair_stack();
        drop(servers);
        self.measure_recovery("redis", since, disturbance);
    }
}

/// Copies a folder, including owners and permissions.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp").success(), "{}", from.display());
}

fn fault_query(fault: ExternalFault) -> &'static str {
    match fault {
        ExternalFault::Error => "status=500&fail_rate=0.5",
        ExternalFault::TooMany => "status=429&retry_after_seconds=1",
        // Longer than the workers' request timeout of two seconds.
        ExternalFault::Late => "delay_ms=3000",
    }
}

/// Returns the starts and ends of all faults except for server faults, by time.
fn steps(entries: &[Entry]) -> Vec<Step> {
    let others = entries.iter().filter(|entry| !entry.fault.is_server());
    let mut steps: Vec<Step> = others
        .enumerate()
        .flat_map(|(number, entry)| {
            [(entry.at, true), (entry.at + entry.duration, false)].map(|(at, is_start)| Step {
                at,
                number,
                fault: entry.fault,
                is_start,
            })
        })
        .collect();
    steps.sort_by_key(|step| step.at);
    steps
}
