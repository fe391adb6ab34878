//! The workers: one to three `fanout run` processes, which are started,
//! stopped, killed and paused.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    stage::{Stage, wait_until},
    support::tail,
};

/// SIGTERM is obeyed within ten seconds. The rest is for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(40);

/// Number of log lines shown, and of characters per line.
const SHOWN: usize = 40;
const WIDTH: usize = 400;

pub struct Workers<'a> {
    stage: &'a Stage,
    crew: Mutex<Crew>,
}

#[derive(Default)]
struct Crew {
    alive: Vec<Worker>,
    started: usize,
}

struct Worker {
    number: usize,
    child: Child,
    is_paused: bool,
}

impl<'a> Workers<'a> {
    /// Starts the first worker.
    pub fn start(stage: &'a Stage) -> Self {
        let workers = Self {
            stage,
            crew: Mutex::default(),
        };
        workers.start_one();
        workers
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, number: usize) -> PathBuf {
        let home = self.stage.stack.fanout.home();
        home.join(format!("worker-{number}.log"))
    }

    pub fn start_one(&self) {
        let mut crew = self.crew();
        crew.started += 1;
        let number = crew.started;
        let log = File::create(self.log(number)).expect("create the log");
        let mut command =
            self.stage
                .worker
                .command(&["--output", "json", "run", "--http-addr", "127.0.0.1:0"]);
        let command = command
            .stdout(Stdio::null())
            .stderr(log)
            .env("FANOUT_LOG", "info");
        let child = command.spawn().expect("start the binary");
        self.stage.stack.guard.watch(child.id());
        crew.alive.push(Worker {
            number,
            child,
            is_paused: false,
        });
    }

    pub fn count(&self) -> usize {
        self.crew().alive.len()
    }

    /// Kills the oldest worker. Returns its number.
    pub fn kill_one(&self) -> usize {
        let mut worker = self.crew().alive.remove(0);
        worker.child.kill().expect("kill the worker");
        worker.child.wait().expect("wait for the worker");
        worker.number
    }

    /// Pauses the oldest worker until it is resumed. Returns its number.
    pub fn pause_one(&self) -> usize {
        let mut crew = self.crew();
        let worker = crew.alive.first_mut().expect("a worker is running");
        worker.is_paused = true;
        worker.signal(Signal::SIGSTOP);
        worker.number
    }

    /// Resumes the worker, unless it has been killed in the meantime.
    pub fn resume(&self, number: usize) {
        let mut crew = self.crew();
        if let Some(worker) = crew.alive.iter_mut().find(|worker| worker.number == number) {
            worker.is_paused = false;
            worker.signal(Signal::SIGCONT);
        }
    }

    /// Starts or stops workers until `count` of them are running.
    pub fn set_count(&self, count: usize) {
        while self.count() < count {
            self.start_one();
        }
        while self.count() > count {
            let mut worker = self.crew().alive.remove(0);
            worker.signal(Signal::SIGTERM);
            worker.signal(Signal::SIGCONT);
            self.wait_for_stop(&mut worker);
        }
    }

    fn wait_for_stop(&self, worker: &mut Worker) {
        let number = worker.number;
        let ended = wait_until(STOPS_WITHIN, || match worker.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        match ended {
            Ok(status) if status.success() => {}
            outcome => {
                worker.signal(Signal::SIGKILL);
                let summary = format!("worker {number} did not stop cleanly: {outcome:?}");
                self.stage
                    .report(format!("{summary}\n{}", self.log_tail(number, SHOWN)));
            }
        }
    }

    /// Reports workers that have ended without being stopped, and replaces
    /// them.
    pub fn replace_ended(&self) {
        let ended: Vec<(usize, ExitStatus)> = {
            let mut crew = self.crew();
            let mut ended = Vec::new();
            crew.alive
                .retain_mut(|worker| match worker.child.try_wait() {
                    Ok(Some(status)) => {
                        ended.push((worker.number, status));
                        false
                    }
                    _ => true,
                });
            ended
        };
        for (number, status) in ended {
            let log_tail = self.log_tail(number, SHOWN);
            self.stage.report(format!(
                "worker {number} ended unexpectedly: {status}\n{log_tail}"
            ));
            self.start_one();
        }
    }

    fn log_tail(&self, number: usize, lines: usize) -> String {
        let log = fs::read(self.log(number)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // Most lines are about dead letters, which the storm writes on purpose.
        let kept = log.lines().filter(|line| !line.contains("dead-lettered"));
        let kept: Vec<String> = kept
            .map(|line| line.chars().take(WIDTH).collect())
            .collect();
        format!("--- worker {number}\n{}", tail(&kept.join("\n"), lines))
    }

    /// Returns the last log lines of the latest workers, for a finding.
    pub fn evidence(&self) -> String {
        let started = self.crew().started;
        let last = (1..=started).rev().take(4);
        let log_tail: Vec<String> = last.map(|number| self.log_tail(number, SHOWN)).collect();
        log_tail.join("\n")
    }

    /// Returns the lines of all logs that report a panic.
    pub fn panics(&self) -> Vec<String> {
        let started = self.crew().started;
        let logs = (1..=started).map(|number| (number, fs::read(self.log(number))));
        let lines = logs.flat_map(|(number, log)| {
            let log = String::from_utf8_lossy(&log.unwrap_or_default()).into_owned();
            let panics = log.lines().filter(|line| line.contains("panicked"));
            let panics = panics.map(|line| format!("worker {number}: {line}"));
            panics.collect::<Vec<_>>()
        });
        lines.collect()
    }
}

impl Worker {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // A worker that has ended is reported by `replace_ended`.
        let _ = kill(pid, signal);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
