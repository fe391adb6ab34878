//! Processes of the binary that a test runs beside the stack: a pipeline of
//! another project on the same servers, a stub of its own.

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

use super::{Fanout, PATIENCE, Stack, canary, eventually, tail, wait_for};

/// A process with what it says on stderr; killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Process {
    fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        let mut child = fanout
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        stack.guard.watch(child.id());
        let said = Arc::default();
        let stderr = child.stderr.take().expect("a pipe");
        thread::spawn({
            let said = Arc::clone(&said);
            move || listen(stderr, &said)
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// How it ended.
    fn wait(&mut self) -> ExitStatus {
        eventually("it ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}\n{}", tail(&self.said(), 30))),
        })
    }
}

#[cfg(feature = "crash-points")]
impl Process {
    /// Waits until it has died of this crash point.
    fn dies_at(&mut self, (who, step): (&str, &str)) {
        use std::os::unix::process::ExitStatusExt as _;

        let status = self.wait();
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        let line = format!("crash point {who}.{step} crashes the process");
        // What it said last is heard a moment after its end.
        eventually(&format!("it dies at {who}.{step}"), || {
            let said = self.said();
            (killed && said.contains(&line))
                .then_some(())
                .ok_or_else(|| format!("{status}\n{}", tail(&said, 30)))
        });
    }
}

fn listen(stderr: ChildStderr, said: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&line);
        said.push('\n');
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- a process of this test\n{}", tail(&self.said(), 30));
        } else {
            canary::is_silent(&self.said());
        }
        // It has gone already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a pipeline says of itself; null where nobody answers.
pub fn status_of(url: &str) -> Json {
    wait_for(async {
        match reqwest::get(format!("{url}/status")).await {
            Ok(answer) => answer.json().await.expect("a status"),
            Err(_) => Json::Null,
        }
    })
}

/// A `fanout run`.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    url: String,
}

impl Worker {
    /// Starts it and waits until it serves its own HTTP.
    pub fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        let mut all = vec!["--output", "json", "run", "--http-addr", "127.0.0.1:0"];
        all.extend(arguments);
        let process = Process::start(stack, fanout, &all);
        let url = eventually("the pipeline serves", || {
            let said = process.said();
            let address = said
                .split_once("serving ")
                .and_then(|(_, rest)| rest.split_once("/healthz"));
            address.map(|(url, _)| url.to_owned()).ok_or(said)
        });
        Self { process, url }
    }

    /// What it says of itself.
    pub fn status(&self) -> Json {
        wait_for(async {
            let answer = reqwest::get(format!("{}/status", self.url)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
            answer.json().await.expect("a status")
        })
    }

    /// What it says of one sink.
    pub fn sink(&self, name: &str) -> Json {
        let status = self.status();
        let sinks = status["sinks"].as_array().expect("sinks");
        let sink = sinks.iter().find(|sink| sink["name"] == name);
        sink.unwrap_or_else(|| panic!("no sink {name}: {status:#}"))
            .clone()
    }

    /// Its `/healthz` says that a sink is halted.
    pub fn is_unhealthy(&self) {
        let url = format!("{}/healthz", self.url);
        let answer = wait_for(reqwest::get(url)).expect("the pipeline");
        assert_eq!(answer.status(), 503, "{:#}", self.status());
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        tail(&self.process.said(), 30)
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        self.process.said()
    }

    /// Where it serves its own HTTP.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Holds it still, as a machine that is suspended does.
    pub fn pause(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Kills it the hard way.
    pub fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
    }

    /// Asks it to stop and waits; its last document.
    pub fn stop(mut self) -> Json {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait();
        let mut stdout = String::new();
        let pipe = self.process.child.stdout.as_mut().expect("a pipe");
        pipe.read_to_string(&mut stdout).expect("text");
        let said = self.process.said();
        assert_eq!(status.code(), Some(0), "{stdout}\n{}", tail(&said, 30));
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}\n{stdout}"))
    }
}

#[cfg(feature = "crash-points")]
impl Worker {
    pub fn is_alive(&mut self) -> bool {
        self.process.child.try_wait().expect("a child").is_none()
    }

    /// Waits until it has died of this crash point.
    pub fn dies_at(mut self, point: (&str, &str)) {
        self.process.dies_at(point);
    }

    /// Asks it to stop; it dies of this crash point instead.
    pub fn dies_told_to_stop(mut self, point: (&str, &str)) {
        self.process.signal(Signal::SIGTERM);
        self.process.dies_at(point);
    }
}

/// A call with a crash point before it.
#[cfg(feature = "crash-points")]
#[derive(Debug)]
pub struct Doomed(Process);

#[cfg(feature = "crash-points")]
impl Doomed {
    pub fn start(stack: &Stack, fanout: &Fanout, arguments: &[&str]) -> Self {
        Self(Process::start(stack, fanout, arguments))
    }

    /// Waits until it has died of this crash point.
    pub fn dies_at(mut self, point: (&str, &str)) {
        self.0.dies_at(point);
    }
}

/// A command that prints one document a line until it is told to stop.
#[derive(Debug)]
pub struct Going {
    process: Process,
    documents: mpsc::Receiver<Json>,
}

impl Going {
    pub fn start(stack: &Stack, arguments: &[&str]) -> Self {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let mut process = Process::start(stack, &stack.fanout, &all);
        let stdout = process.child.stdout.take().expect("a pipe");
        let (sender, documents) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let document = serde_json::from_str(&line).expect("a document a line");
                // Nobody listens after the test.
                let _ = sender.send(document);
            }
        });
        Self { process, documents }
    }

    /// Reads on to the first document with what is wanted in it.
    pub fn next<T>(&self, what: &str, find: impl Fn(&Json) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Json::Null;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.documents.recv_timeout(left) {
                Ok(document) => last = document,
                Err(error) => panic!("{what}: {error}\n{last:#}\n{}", self.process.said()),
            }
            if let Some(found) = find(&last) {
                return found;
            }
        }
    }

    /// Asks it to stop, as Ctrl-C does; it has to end with 0.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGINT);
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{}", self.process.said());
    }
}

/// A `fanout stub`.
#[derive(Debug)]
pub struct Stub {
    _going: Going,
    pub url: String,
}

impl Stub {
    /// Starts one that keeps what it accepts in `data`.
    pub fn start(stack: &Stack, data: &Path) -> Self {
        let data = data.to_str().expect("a path in UTF-8");
        let going = Going::start(stack, &["stub", "--listen", "127.0.0.1:0", "--data", data]);
        let url = |document: &Json| document["url"].as_str().map(str::to_owned);
        Self {
            url: going.next("where it listens", url),
            _going: going,
        }
    }
}
