//! The writer of a service's log: a process that reads what the service says
//! and keeps the log within its bounds, however long the service runs and
//! whether any other process of fanout's does.
//!
//! It is fanout's own binary, started by `up` before the service, whose stdout
//! and stderr are a pipe to it. It has a process group of its own, which Ctrl-C
//! in the terminal does not reach, and blocks all signals. It ends when nobody
//! holds the other end of the pipe: after the last words of the service and all
//! that it started. Until then it holds the lock that is its stdout, so that it
//! can be waited for.

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

/// Between two looks at the lock.
const TICK: Duration = Duration::from_millis(10);

/// How long the last words of a service that has ended may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Starts the writer of a log; `fanout` is this program. Returns what the
/// service is to have as its stdout and as its stderr.
///
/// # Errors
/// When the log cannot be opened or the writer cannot be started.
pub async fn start(
    dir: &ProjectDir,
    service: &str,
    fanout: &Path,
    log: LogFile,
) -> io::Result<(Stdio, Stdio)> {
    // An error here is `up`'s to report; the writer would have nobody to tell.
    drop(Rotating::open(log.clone())?);
    let mut options = File::options();
    options.create(true).append(true);
    let lock = files::open(&dir.log_lock(service), &mut options)?;
    // An earlier writer that does not end does no harm: both append.
    wait_for(&lock).await;
    let (reader, mut writer) = io::pipe()?;
    // As long as a pipe holds it, nobody has to read meanwhile.
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

/// Waits until the last words of a service that has ended are in its log.
pub async fn finished(dir: &ProjectDir, service: &str) {
    if let Ok(lock) = File::open(dir.log_lock(service)) {
        wait_for(&lock).await;
    }
}

/// Takes the lock, unless it is not free for too long.
async fn wait_for(lock: &File) {
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return,
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => sleep(TICK).await,
            Err(_) => return,
        }
    }
}

/// Writes the log until everybody who could add to it is gone.
///
/// # Errors
/// When the log cannot be opened.
pub(super) fn write(log: LogFile, mut said: impl Read) -> io::Result<()> {
    // Whoever ends the service is to read its last words here.
    let _ = SigSet::all().thread_block();
    // Where an earlier writer still holds the lock, this one takes it next.
    let lock = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Without the thread nobody can wait for the last words; nothing else.
    let _ = thread::Builder::new().spawn(move || lock.lock());
    let mut log = Rotating::open(log)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match said.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => log.write(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
