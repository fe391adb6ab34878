//! Processes of services: starting one, finding it again, and stopping it with
//! all its child processes.

use std::{
    fs, io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::sleep,
};

use super::{
    environment,
    launch::{RECORD_FORMAT, Record},
    log_writer,
    task::{LAUNCH, Launch, Task},
};
use crate::{
    failure::{self, Error, Kind},
    stack::{
        definition::StopSignal,
        home::{OTHER_HOME, ProjectDir},
        log_file::LogFile,
        proc::{self, Identity},
    },
    text::escape::escape,
};

/// Interval between two checks while waiting for a process.
const TICK: Duration = Duration::from_millis(50);

/// How long leftover processes of an earlier run may take to exit after
/// SIGTERM.
pub const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time to wait for a killed process to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a started process may take to write its record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(20);

fn not_started(service: &str, log: &[String]) -> Error {
    let message = format!("{service} did not start{}", lines(log));
    Error::new(Kind::Failed, "service_not_started", message)
        .with_hint(failure::Command::new("logs").argument(service))
}

fn not_stopped(service: &str, pid: i32) -> Error {
    let message = format!("{service} (pid {pid}) did not exit even after being killed");
    Error::new(Kind::Failed, "service_not_stopped", message)
}

fn file_error(path: &Path, source: io::Error) -> Error {
    let message = format!("{} cannot be used", path.display());
    Error::new(Kind::Environment, "home_unreachable", message)
        .with_hint(OTHER_HOME)
        .caused_by(source)
}

/// Formats log lines for the end of a message, escaped for the terminal.
#[must_use]
pub fn lines(log: &[String]) -> String {
    if log.is_empty() {
        return String::new();
    }
    let harmless = |line: &String| format!("\n  {}", escape(&line.replace('\t', "    ")));
    let indented: Vec<String> = log.iter().map(harmless).collect();
    format!("; last log lines:{}", indented.concat())
}

/// How a service was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// The service was not running.
    NotRunning,
    /// The service exited when asked to.
    Stopped,
    /// It had to be killed.
    Killed,
    /// The service was not running, but processes of an earlier run were.
    Leftovers(LeftoverOutcome),
}

/// How leftover processes were stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverOutcome {
    /// They exited by themselves or when asked to.
    Stopped,
    /// It had to be killed.
    Killed,
}

/// A process that was started by this one.
#[derive(Debug)]
pub struct StartedProcess {
    pub process: Identity,
    child: Child,
}

impl StartedProcess {
    /// Returns the exit status once the process has exited.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// Returns the record of the service's process, if it is alive. Waits for a
/// process that is exiting, because its ports are not free before.
#[must_use]
pub fn running(dir: &ProjectDir, service: &str) -> Option<Record> {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    const TIMEOUT: Duration = Duration::from_secs(2);
    let text = fs::read_to_string(dir.record(service)).ok()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    let started = Instant::now();
    while record.process.is_ending() && started.elapsed() < TIMEOUT {
        std::thread::sleep(POLL_INTERVAL);
    }
    (record.format == RECORD_FORMAT && record.process.is_alive()).then_some(record)
}

/// What happens to a child process when its handle is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrop {
    Keep,
    Kill,
}

/// Starts a process that carries out `launch`. `fanout` is the path of this
/// program, and `outputs` are stdout and stderr.
///
/// # Errors
/// If this program cannot be started.
pub async fn spawn(
    fanout: &Path,
    launch: &Launch,
    outputs: (Stdio, Stdio),
    on_drop: OnDrop,
) -> io::Result<Child> {
    let mut task = serde_json::to_vec(&Task::Serve(launch.clone()))?;
    task.push(b'\n');
    let mut child = Command::from(environment::command(fanout))
        .arg(LAUNCH)
        .stdin(Stdio::piped())
        .stdout(outputs.0)
        .stderr(outputs.1)
        .kill_on_drop(on_drop == OnDrop::Kill)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Ignored: a child that does not read has exited, and its status is
        // reported.
        let _ = stdin.write_all(&task).await;
    }
    Ok(child)
}

/// Starts a service. `fanout` is the path of this program. Returns once the
/// process has written its record, which happens before it executes the server.
///
/// # Errors
/// If the process exits before that, or its files cannot be created.
pub async fn start(
    dir: &ProjectDir,
    service: &str,
    fanout: &Path,
    launch: &Launch,
    log: LogFile,
) -> Result<StartedProcess, Error> {
    let failed = |source: io::Error| not_started(service, &[]).caused_by(source);
    let path = log.path.clone();
    let outputs = log_writer::start(dir, service, fanout, log).await;
    let outputs = outputs.map_err(|source| file_error(&path, source))?;
    let mut child = spawn(fanout, launch, outputs, OnDrop::Keep)
        .await
        .map_err(failed)?;
    let pid = child.id().map(u32::cast_signed);
    let started = Instant::now();
    while started.elapsed() < RECORD_TIMEOUT {
        match running(dir, service) {
            Some(record) if Some(record.process.pid) == pid => {
                return Ok(StartedProcess {
                    process: record.process,
                    child,
                });
            }
            _ if child.try_wait().ok().flatten().is_some() => break,
            _ => sleep(TICK / 5).await,
        }
    }
    log_writer::wait_until_written(dir, service).await;
    let log = crate::stack::logs::last_lines(&dir.log(service), 10);
    Err(not_started(service, &log))
}

/// Stops a service: sends the signal, kills the process after `timeout`, then
/// stops its remaining child processes. Processes without a record are found by
/// the tether.
///
/// # Errors
/// If a process survives being killed.
pub async fn stop(
    dir: &ProjectDir,
    service: &str,
    signal: StopSignal,
    timeout: Duration,
) -> Result<StopOutcome, Error> {
    let mut outcome = StopOutcome::NotRunning;
    if let Some(Record { process, .. }) = running(dir, service) {
        let pid = Pid::from_raw(process.pid);
        // Ignored: the process may have exited already.
        let _ = kill(pid, Signal::from(signal));
        outcome = StopOutcome::Stopped;
        if !wait_until(timeout, || !process.is_alive()).await {
            outcome = StopOutcome::Killed;
            let _ = killpg(pid, Signal::SIGKILL);
            if !wait_until(KILL_TIMEOUT, || !process.is_alive()).await {
                return Err(not_stopped(service, process.pid));
            }
        }
    }
    let leftover = end_holders(&dir.tether(service), service).await?;
    log_writer::wait_until_written(dir, service).await;
    if let (StopOutcome::NotRunning, Some(leftover)) = (outcome, leftover) {
        outcome = StopOutcome::Leftovers(leftover);
    }
    let record = dir.record(service);
    match fs::remove_file(&record) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file_error(&record, source)),
        _ => Ok(outcome),
    }
}

/// Stops all processes that hold a tether, and returns how, or `None` if there
/// were none. Children of a stopped server, as in Postgres, exit by themselves
/// soon; the others get SIGTERM, then SIGKILL.
///
/// # Errors
/// If a process survives being killed.
pub async fn end_holders(tether: &Path, service: &str) -> Result<Option<LeftoverOutcome>, Error> {
    let holders = || proc::holders_of(tether);
    let signal = |signal| {
        for pid in holders() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    };
    if !tether.exists() || holders().is_empty() {
        return Ok(None);
    }
    if wait_until(Duration::from_secs(2), || holders().is_empty()).await {
        return Ok(Some(LeftoverOutcome::Stopped));
    }
    signal(Signal::SIGTERM);
    if wait_until(LEFTOVER_TIMEOUT, || holders().is_empty()).await {
        return Ok(Some(LeftoverOutcome::Stopped));
    }
    signal(Signal::SIGKILL);
    if wait_until(KILL_TIMEOUT, || holders().is_empty()).await {
        return Ok(Some(LeftoverOutcome::Killed));
    }
    let pid = holders().first().copied().unwrap_or_default();
    Err(not_stopped(service, pid))
}

/// Polls until `condition` holds or `timeout` has passed. Returns whether it
/// holds.
async fn wait_until(timeout: Duration, condition: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if started.elapsed() >= timeout {
            return false;
        }
        sleep(TICK).await;
    }
}

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::SIGTERM,
            StopSignal::Int => Self::SIGINT,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as StdCommand;

    use super::*;

    /// Starts a shell that holds the file and runs `on_term` on SIGTERM.
    fn holder(file: &Path, on_term: &str) -> std::process::Child {
        let script = format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.05; done");
        let mut child = StdCommand::new("sh")
            .args(["-c", &script])
            .stdin(fs::File::create(file).expect("a file"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the child");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line)
            .expect("the shell is ready");
        child
    }

    #[tokio::test]
    async fn leftover_processes_are_asked_to_exit_before_they_are_killed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tether = folder.path().join("tether");
        assert_eq!(end_holders(&tether, "x").await.expect("no process"), None);
        let mut polite = holder(&tether, "exit 7");
        let leftover = end_holders(&tether, "x").await.expect("the processes exit");
        assert_eq!(leftover, Some(LeftoverOutcome::Stopped));
        assert_eq!(polite.wait().expect("the processes exit").code(), Some(7));
    }
}
