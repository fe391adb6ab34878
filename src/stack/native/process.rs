//! The process of a service: started, found again, stopped with all that it
//! started.

use std::{
    fs, io,
    path::{Path, PathBuf},
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
    escape::escape,
    failure::{Failure, Kind},
    stack::{
        definition::StopSignal,
        home::ProjectDir,
        log_file::LogFile,
        proc::{self, Identity},
    },
};

/// How often a process is looked at while it is waited for.
const TICK: Duration = Duration::from_millis(50);

/// How long what an earlier life left behind may take to end when asked.
pub const LEFT_PATIENCE: Duration = Duration::from_secs(10);

/// How long the kernel takes at most to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a started process may take until it is on record.
const RECORD_PATIENCE: Duration = Duration::from_secs(20);

/// Why a process is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("{service} did not start{}", lines(log))]
    NotStarted {
        service: String,
        log: Vec<String>,
        #[source]
        source: Option<io::Error>,
    },
    #[error("{service} (pid {pid}) does not end, not even when killed")]
    Immortal { service: String, pid: i32 },
    #[error("{} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Log lines as the end of a message, harmless to a terminal.
#[must_use]
pub fn lines(log: &[String]) -> String {
    if log.is_empty() {
        return String::new();
    }
    let harmless = |line: &String| format!("\n  {}", escape(&line.replace('\t', "    ")));
    let indented: Vec<String> = log.iter().map(harmless).collect();
    format!("; its last words:{}", indented.concat())
}

impl Failure for ProcessError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotStarted { .. } | Self::Immortal { .. } => Kind::Failed,
            Self::File { .. } => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotStarted { .. } => "service_not_started",
            Self::Immortal { .. } => "service_not_stopped",
            Self::File { .. } => "home_unreachable",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotStarted { service, .. } => Some(format!("fanout logs {service}")),
            Self::Immortal { .. } => None,
            Self::File { .. } => {
                Some("name a folder of your own: FANOUT_HOME=<folder> fanout …".to_owned())
            }
        }
    }
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was not there.
    WasNot,
    /// As asked.
    InOrder,
    /// It had to be killed.
    Killed,
    /// It was not there, but something that an earlier life of it had left.
    Leftovers(Left),
}

/// How what held a tether ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By itself, or as asked.
    InOrder,
    /// It had to be killed.
    Killed,
}

/// A process that was started by this one.
#[derive(Debug)]
pub struct Started {
    pub process: Identity,
    child: Child,
}

impl Started {
    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// What is known of the service's process, where it is alive. Waits for one
/// that is about to be gone: its ports are free only then.
#[must_use]
pub fn running(dir: &ProjectDir, service: &str) -> Option<Record> {
    const LOOK_AGAIN: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_secs(2);
    let text = fs::read_to_string(dir.record(service)).ok()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    let begun = Instant::now();
    while record.process.is_ending() && begun.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
    }
    (record.format == RECORD_FORMAT && record.process.is_alive()).then_some(record)
}

/// Whether a process goes on when whoever started it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    Us,
    Nobody,
}

/// Starts a process that does what `launch` says; `fanout` is this program,
/// `outputs` are its stdout and stderr.
///
/// # Errors
/// When this program cannot be started.
pub async fn spawn(
    fanout: &Path,
    launch: &Launch,
    outputs: (Stdio, Stdio),
    outlives: Outlives,
) -> io::Result<Child> {
    let mut task = serde_json::to_vec(&Task::Serve(launch.clone()))?;
    task.push(b'\n');
    let mut child = Command::from(environment::command(fanout))
        .arg(LAUNCH)
        .stdin(Stdio::piped())
        .stdout(outputs.0)
        .stderr(outputs.1)
        .kill_on_drop(outlives == Outlives::Nobody)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that reads nothing has ended, and is told of by its status.
        let _ = stdin.write_all(&task).await;
    }
    Ok(child)
}

/// Starts a service; `fanout` is this program. Comes back once the process is
/// on record, which is before it is the server.
///
/// # Errors
/// When it ends before that, or its files cannot be made.
pub async fn start(
    dir: &ProjectDir,
    service: &str,
    fanout: &Path,
    launch: &Launch,
    log: LogFile,
) -> Result<Started, ProcessError> {
    let failed = |source: io::Error| ProcessError::NotStarted {
        service: service.to_owned(),
        log: Vec::new(),
        source: Some(source),
    };
    let path = log.path.clone();
    let outputs = log_writer::start(dir, service, fanout, log).await;
    let outputs = outputs.map_err(|source| ProcessError::File { path, source })?;
    let mut child = spawn(fanout, launch, outputs, Outlives::Us)
        .await
        .map_err(failed)?;
    let pid = child.id().map(u32::cast_signed);
    let started = Instant::now();
    while started.elapsed() < RECORD_PATIENCE {
        match running(dir, service) {
            Some(record) if Some(record.process.pid) == pid => {
                return Ok(Started {
                    process: record.process,
                    child,
                });
            }
            _ if child.try_wait().ok().flatten().is_some() => break,
            _ => sleep(TICK / 5).await,
        }
    }
    log_writer::finished(dir, service).await;
    Err(ProcessError::NotStarted {
        service: service.to_owned(),
        log: crate::stack::logs::last_lines(&dir.log(service), 10),
        source: None,
    })
}

/// Stops a service: asks it, waits `patience`, kills it; then ends whatever of
/// it is left. Also finds what no record knows of, by the tether.
///
/// # Errors
/// When something survives being killed.
pub async fn stop(
    dir: &ProjectDir,
    service: &str,
    signal: StopSignal,
    patience: Duration,
) -> Result<Ended, ProcessError> {
    let mut ended = Ended::WasNot;
    if let Some(Record { process, .. }) = running(dir, service) {
        let pid = Pid::from_raw(process.pid);
        // It may end by itself between the look and the signal.
        let _ = kill(pid, Signal::from(signal));
        ended = Ended::InOrder;
        if !wait_until(patience, || !process.is_alive()).await {
            ended = Ended::Killed;
            let _ = killpg(pid, Signal::SIGKILL);
            if !wait_until(KILL_PATIENCE, || !process.is_alive()).await {
                return Err(ProcessError::Immortal {
                    service: service.to_owned(),
                    pid: process.pid,
                });
            }
        }
    }
    let left = end_holders(&dir.tether(service), service).await?;
    log_writer::finished(dir, service).await;
    if let (Ended::WasNot, Some(left)) = (ended, left) {
        ended = Ended::Leftovers(left);
    }
    let record = dir.record(service);
    match fs::remove_file(&record) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ProcessError::File {
            path: record,
            source,
        }),
        _ => Ok(ended),
    }
}

/// Ends what still holds a tether; says how, where anything did. Children of a
/// server that ended (Postgres has such) end by themselves soon; what does not
/// is asked to, then killed.
///
/// # Errors
/// When something survives being killed.
pub async fn end_holders(tether: &Path, whose: &str) -> Result<Option<Left>, ProcessError> {
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
        return Ok(Some(Left::InOrder));
    }
    signal(Signal::SIGTERM);
    if wait_until(LEFT_PATIENCE, || holders().is_empty()).await {
        return Ok(Some(Left::InOrder));
    }
    signal(Signal::SIGKILL);
    if wait_until(KILL_PATIENCE, || holders().is_empty()).await {
        return Ok(Some(Left::Killed));
    }
    Err(ProcessError::Immortal {
        service: whose.to_owned(),
        pid: holders().first().copied().unwrap_or_default(),
    })
}

/// Looks again and again until it holds or `patience` is over; says whether it
/// holds.
async fn wait_until(patience: Duration, holds: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if started.elapsed() >= patience {
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

    /// A shell that holds the file, and does `what` when asked to end.
    fn holder(file: &Path, what: &str) -> std::process::Child {
        let script = format!("trap '{what}' TERM; echo ready; while :; do sleep 0.05; done");
        let mut child = StdCommand::new("sh")
            .args(["-c", &script])
            .stdin(fs::File::create(file).expect("a file"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        let said = child.stdout.take().expect("piped");
        io::BufRead::read_line(&mut io::BufReader::new(said), &mut line).expect("ready");
        child
    }

    #[tokio::test]
    async fn what_was_left_behind_is_asked_before_it_is_killed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tether = folder.path().join("tether");
        assert_eq!(end_holders(&tether, "x").await.expect("none"), None);
        let mut polite = holder(&tether, "exit 7");
        let left = end_holders(&tether, "x").await.expect("ended");
        assert_eq!(left, Some(Left::InOrder));
        assert_eq!(polite.wait().expect("ended").code(), Some(7));
    }
}
