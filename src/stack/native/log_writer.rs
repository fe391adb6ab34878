//! The log writer of a service: a process that reads the service's output and
//! keeps the log within its limits. It runs as long as the service,
//! independently of other fanout processes.
//!
//! The log writer is the fanout binary, started by `up` before the service,
//! whose stdout and stderr are a pipe to it. It has its own process group, so
//! Ctrl-C in the terminal does not reach it, and it blocks all signals. It
//! exits when no process has the write end of the pipe open, which is after the
//! last output of the service and all its child processes. Until then it holds
//! the lock file that is its stdout, so that others can wait for it.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Write as _},
    os::fd::AsFd as _,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::SigSet;
use tokio::{process::Command, time::sleep};

use super::{
    environment,
    task::{LAUNCH, Task},
};
use crate::stack::{
    files,
    home::ProjectDir,
    log_file::{LogFile, Rotating},
};

/// Interval between two attempts to take the lock.
const TICK: Duration = Duration::from_millis(10);

/// How long to wait until the last output of a stopped service is written.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Starts the writer of a log. `fanout` is the path of this program. Returns
/// the stdout and stderr for the service.
///
/// # Errors
/// If the log cannot be opened or the writer cannot be started.
pub async fn start(
    dir: &ProjectDir,
    service: &str,
    fanout: &Path,
    log: LogFile,
) -> io::Result<(Stdio, Stdio)> {
    // Opened here so that `up` reports an error; the writer could not.
    drop(Rotating::open(log.clone())?);
    let mut options = File::options();
    options.create(true).append(true);
    let lock = files::open(&dir.log_lock(service), &mut options)?;
    // A previous writer that is still running does no harm: both append.
    wait_for(&lock).await;
    let (reader, mut writer) = io::pipe()?;
    // The pipe's buffer holds all of it, so no process has to read yet.
    serde_json::to_writer(&mut writer, &Task::WriteLog(log))?;
    writer.write_all(b"\n")?;
    Command::from(environment::command(fanout))
        .arg(LAUNCH)
        .current_dir("/")
        .process_group(0)
        .stdin(reader)
        .stdout(lock)
        .stderr(Stdio::null())
        .spawn()?;
    Ok((writer.try_clone()?.into(), writer.into()))
}

/// Waits until the last output of a stopped service is in its log.
pub async fn wait_until_written(dir: &ProjectDir, service: &str) {
    if let Ok(lock) = File::open(dir.log_lock(service)) {
        wait_for(&lock).await;
    }
}

/// Waits for the lock and takes it; gives up after a timeout.
async fn wait_for(lock: &File) {
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return,
            Err(TryLockError::WouldBlock) if started.elapsed() < TIMEOUT => sleep(TICK).await,
            Err(_) => return,
        }
    }
}

/// Writes the log until no process can add to it.
///
/// # Errors
/// If the log cannot be opened.
pub(super) fn write(log: LogFile, mut output: impl Read) -> io::Result<()> {
    // Signals are blocked, because a command that stops the service reads its
    // last output here.
    let _ = SigSet::all().thread_block();
    // If a previous writer still holds the lock, this one takes it next.
    let lock = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // If the thread cannot be started, the only effect is that no command can
    // wait for the last output.
    let _ = thread::Builder::new().spawn(move || lock.lock());
    let mut log = Rotating::open(log)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => log.write(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
