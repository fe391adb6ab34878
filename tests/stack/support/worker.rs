//! Processes of the binary that a test runs in addition to the stack: the
//! pipeline of another project on the same servers, or another stub.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;

use super::{Fanout, Stack, TIMEOUT, canary, eventually, tail, wait_for};

/// A process and its stderr. Killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        let mut child = fanout
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the binary");
        stack.guard.watch(child.id());
        let output = Arc::default();
        let stderr = child.stderr.take().expect("a pipe");
        thread::spawn({
            let output = Arc::clone(&output);
            move || listen(stderr, &output)
        });
        Self { child, output }
    }

    fn log(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.clone()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signal the process");
    }

    /// Waits until the process ends and returns its status.
    fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}\n{}", tail(&self.log(), 30))),
        })
    }
}

#[cfg(feature = "crash-points")]
impl Process {
    /// Waits until the process has crashed at this crash point.
    fn wait_for_crash(&mut self, (module, step): (&str, &str)) {
        use std::os::unix::process::ExitStatusExt as _;

        let status = self.wait();
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        let line = format!("crash point {module}.{step} crashes the process");
        // The last output may arrive a moment after the process ends.
        eventually(&format!("the process crashes at {module}.{step}"), || {
            let log = self.log();
            (killed && log.contains(&line))
                .then_some(())
                .ok_or_else(|| format!("{status}\n{}", tail(&log, 30)))
        });
    }
}

fn listen(stderr: ChildStderr, output: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.push_str(&line);
        output.push('\n');
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- a process of this test\n{}", tail(&self.log(), 30));
        } else {
            canary::assert_no_secret(&self.log());
        }
        // After a successful test the process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the status of the pipeline at `url`, or null if it does not respond.
pub fn fetch_status(url: &str) -> Json {
    wait_for(async {
        match reqwest::get(format!("{url}/status")).await {
            Ok(response) => response.json().await.expect("a status"),
            Err(_) => Json::Null,
        }
    })
}

/// A process of `fanout run`.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    url: String,
}

impl Worker {
    /// Starts the worker and waits until its HTTP server is ready.
    pub fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        let mut all = vec!["--output", "json", "run", "--http-addr", "127.0.0.1:0"];
        all.extend(arguments);
        let process = Process::start(stack, fanout, &all);
        let url = eventually("the pipeline serves HTTP", || {
            let log = process.log();
            let address = log
                .split_once("serving ")
                .and_then(|(_, rest)| rest.split_once("/healthz"));
            address.map(|(url, _)| url.to_owned()).ok_or(log)
        });
        Self { process, url }
    }

    /// Returns the worker's status.
    pub fn status(&self) -> Json {
        wait_for(async {
            let response = reqwest::get(format!("{}/status", self.url)).await;
            let response = response.unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()));
            response.json().await.expect("a status")
        })
    }

    /// Returns the status of one sink.
    pub fn sink(&self, name: &str) -> Json {
        let status = self.status();
        let sinks = status["sinks"].as_array().expect("sinks");
        let sink = sinks.iter().find(|sink| sink["name"] == name);
        sink.unwrap_or_else(|| panic!("no sink {name}: {status:#}"))
            .clone()
    }

    /// Asserts that `/healthz` reports a halted sink.
    pub fn assert_unhealthy(&self) {
        let url = format!("{}/healthz", self.url);
        let response = wait_for(reqwest::get(url)).expect("the pipeline");
        assert_eq!(response.status(), 503, "{:#}", self.status());
    }

    /// Returns the last lines of the worker's log.
    pub fn log_tail(&self) -> String {
        tail(&self.process.log(), 30)
    }

    /// Returns the worker's full log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the URL of the worker's HTTP server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Pauses the worker, as a suspended machine would.
    pub fn pause(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Resumes the worker.
    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Kills the worker with SIGKILL.
    pub fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
    }

    /// Stops the worker, waits until it ends, and returns its last document.
    pub fn stop(mut self) -> Json {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait();
        let mut stdout = String::new();
        let pipe = self.process.child.stdout.as_mut().expect("a pipe");
        pipe.read_to_string(&mut stdout).expect("text");
        let log = self.process.log();
        assert_eq!(status.code(), Some(0), "{stdout}\n{}", tail(&log, 30));
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}\n{stdout}"))
    }
}

#[cfg(feature = "crash-points")]
impl Worker {
    pub fn is_alive(&mut self) -> bool {
        self.process.child.try_wait().expect("a child").is_none()
    }

    /// Waits until the worker has crashed at this crash point.
    pub fn wait_for_crash(mut self, point: (&str, &str)) {
        self.process.wait_for_crash(point);
    }

    /// Stops the worker and waits until it has crashed at this crash point.
    pub fn stop_until_crash(mut self, point: (&str, &str)) {
        self.process.signal(Signal::SIGTERM);
        self.process.wait_for_crash(point);
    }
}

/// A call that is expected to crash at a crash point.
#[cfg(feature = "crash-points")]
#[derive(Debug)]
pub struct CrashingCommand(Process);

#[cfg(feature = "crash-points")]
impl CrashingCommand {
    pub fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        Self(Process::start(stack, fanout, arguments))
    }

    /// Waits until the call has crashed at this crash point.
    pub fn wait_for_crash(mut self, point: (&str, &str)) {
        self.0.wait_for_crash(point);
    }
}

/// A command that prints one document per line until it is stopped.
#[derive(Debug)]
pub struct RunningCommand {
    process: Process,
    documents: mpsc::Receiver<Json>,
}

impl RunningCommand {
    pub fn start(stack: &Stack, arguments: &[&str]) -> Self {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let mut process = Process::start(stack, &stack.fanout, &all);
        let stdout = process.child.stdout.take().expect("a pipe");
        let (sender, documents) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let document = serde_json::from_str(&line).expect("one document per line");
                // The receiver is dropped when the test ends.
                let _ = sender.send(document);
            }
        });
        Self { process, documents }
    }

    /// Reads documents until `find` returns a value, and returns it.
    pub fn wait_for_document<T>(&self, what: &str, find: impl Fn(&Json) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        let mut last = Json::Null;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.documents.recv_timeout(remaining) {
                Ok(document) => last = document,
                Err(error) => panic!("{what}: {error}\n{last:#}\n{}", self.process.log()),
            }
            if let Some(found) = find(&last) {
                return found;
            }
        }
    }

    /// Stops the command as Ctrl-C does. It must exit with 0.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGINT);
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{}", self.process.log());
    }
}

/// A process of `fanout stub`.
#[derive(Debug)]
pub struct Stub {
    _command: RunningCommand,
    pub url: String,
}

impl Stub {
    /// Starts a stub that stores the accepted calls in `data`.
    pub fn start(stack: &Stack, data: &Path) -> Self {
        let data = data.to_str().expect("a path in UTF-8");
        let command =
            RunningCommand::start(stack, &["stub", "--listen", "127.0.0.1:0", "--data", data]);
        let url = |document: &Json| document["url"].as_str().map(str::to_owned);
        Self {
            url: command.wait_for_document("the address of the stub", url),
            _command: command,
        }
    }
}
