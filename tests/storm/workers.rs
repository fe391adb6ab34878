//! The workers: one to three `fanout run`, which come, go, die and stand still.

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
    stage::{Stage, until},
    support::tail,
};

/// SIGTERM is obeyed within ten seconds; the rest is for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(40);

/// Lines of a log that are shown, and characters of each.
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
    frozen: bool,
}

impl<'a> Workers<'a> {
    /// One of them.
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
        let log = File::create(self.log(number)).expect("a log");
        let mut command =
            self.stage
                .worker
                .command(&["--output", "json", "run", "--http-addr", "127.0.0.1:0"]);
        let command = command
            .stdout(Stdio::null())
            .stderr(log)
            .env("FANOUT_LOG", "info");
        let child = command.spawn().expect("the binary starts");
        self.stage.stack.guard.watch(child.id());
        crew.alive.push(Worker {
            number,
            child,
            frozen: false,
        });
    }

    pub fn count(&self) -> usize {
        self.crew().alive.len()
    }

    /// Kills the one that has been there longest. Returns its number.
    pub fn kill_one(&self) -> usize {
        let mut worker = self.crew().alive.remove(0);
        worker.child.kill().expect("it runs");
        worker.child.wait().expect("an end");
        worker.number
    }

    /// Stops the one that has been there longest, until it is thawed.
    pub fn freeze_one(&self) -> usize {
        let mut crew = self.crew();
        let worker = crew.alive.first_mut().expect("there is one");
        worker.frozen = true;
        worker.signal(Signal::SIGSTOP);
        worker.number
    }

    /// Lets it go on, where it has not been killed meanwhile.
    pub fn thaw(&self, number: usize) {
        let mut crew = self.crew();
        if let Some(worker) = crew.alive.iter_mut().find(|one| one.number == number) {
            worker.frozen = false;
            worker.signal(Signal::SIGCONT);
        }
    }

    /// Starts, or asks to stop, until there are so many.
    pub fn become_count(&self, count: usize) {
        while self.count() < count {
            self.start_one();
        }
        while self.count() > count {
            let mut worker = self.crew().alive.remove(0);
            worker.signal(Signal::SIGTERM);
            worker.signal(Signal::SIGCONT);
            self.sees_it_end(&mut worker);
        }
    }

    fn sees_it_end(&self, worker: &mut Worker) {
        let number = worker.number;
        let ended = until(STOPS_WITHIN, || match worker.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        match ended {
            Ok(status) if status.success() => {}
            other => {
                worker.signal(Signal::SIGKILL);
                let what = format!("worker {number}, asked to stop: {other:?}");
                self.stage
                    .found(format!("{what}\n{}", self.said(number, SHOWN)));
            }
        }
    }

    /// Those that have ended by themselves are found out, and replaced.
    pub fn look_after(&self) {
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
            let said = self.said(number, SHOWN);
            self.stage
                .found(format!("worker {number} ended by itself: {status}\n{said}"));
            self.start_one();
        }
    }

    fn said(&self, number: usize, lines: usize) -> String {
        let log = fs::read(self.log(number)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // There is a lot of poison.
        let kept = log.lines().filter(|line| !line.contains("dead-lettered"));
        let kept: Vec<String> = kept
            .map(|line| line.chars().take(WIDTH).collect())
            .collect();
        format!("--- worker {number}\n{}", tail(&kept.join("\n"), lines))
    }

    /// The end of the logs of the last few, for a finding.
    pub fn evidence(&self) -> String {
        let started = self.crew().started;
        let last = (1..=started).rev().take(4);
        let said: Vec<String> = last.map(|number| self.said(number, SHOWN)).collect();
        said.join("\n")
    }

    /// Lines of all the logs that tell of a panic.
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
        // One that has ended is found out by `look_after`.
        let _ = kill(pid, signal);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
