//! The last steps of a process before it becomes a server, carried out by the
//! process itself. It records itself before it executes the server, so that
//! killing `up` at any moment leaves no unrecorded server.
//!
//! `up` starts the fanout binary with the single argument `launch`, which is
//! not a command of the command line, and writes a [`Task`] to its stdin. The
//! process leaves the terminal's session and locks the service's *tether*, a
//! file that every process of the service keeps open. It writes the record and
//! executes the server, which keeps pid and tether. Commands that only prepare
//! something are started in the same way, without a record. So is the [log
//! writer](super::log_writer) of the service, which reads the log's content
//! from stdin after the task.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::stat::{Mode, umask},
};
use serde::{Deserialize, Serialize};

use super::{
    log_writer,
    task::{LAUNCH, Launch, Task},
};
use crate::{
    failure::{Error, Kind},
    stack::{
        files::{self, write_atomically},
        plan::Fingerprint,
        proc::Identity,
    },
};

/// Version of the format of [`Record`].
pub const RECORD_FORMAT: u32 = 1;

/// How long to wait for leftover processes of an earlier run to release the
/// tether.
const TETHER_TIMEOUT: Duration = Duration::from_secs(2);

/// Record of a service's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub process: Identity,
    /// Start time in milliseconds since the epoch.
    pub started_ms: i64,
    /// Fingerprint that the process was started with.
    pub fingerprint: Fingerprint,
}

fn malformed(error: serde_json::Error) -> Error {
    Error::new(
        Kind::Usage,
        "launch_malformed",
        "stdin contains no valid task",
    )
    .caused_by(error)
}

fn system<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Error {
    let action = action.into();
    move |error| {
        let source: io::Error = error.into();
        let message = format!("{action} failed");
        Error::new(Kind::Environment, "launch_failed", message).caused_by(source)
    }
}

/// Returns whether these arguments, starting with the program's name, ask for a
/// [`Task`].
#[must_use]
pub fn is_asked_for(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments.into_iter().skip(1);
    arguments.next().is_some_and(|first| first == LAUNCH) && arguments.next().is_none()
}

/// Reads a [`Task`] from stdin and carries it out. A process that becomes a
/// server returns only on failure.
///
/// # Errors
/// If the task fails.
pub fn launch() -> Result<(), Error> {
    close_inherited();
    let mut input = BufReader::new(io::stdin().lock());
    let mut line = String::new();
    let read = input.read_line(&mut line);
    read.map_err(system("reading stdin"))?;
    match serde_json::from_str(&line).map_err(malformed)? {
        Task::Serve(launch) => match serve(&launch)? {},
        Task::WriteLog(log) => {
            let path = log.path.display().to_string();
            log_writer::write(log, input).map_err(system(format!("writing {path}")))
        }
    }
}

fn serve(launch: &Launch) -> Result<std::convert::Infallible, Error> {
    let (program, arguments) = launch
        .command
        .split_first()
        .ok_or_else(|| Error::new(Kind::Usage, "launch_malformed", "the launch has no command"))?;
    // Fails only if the process already leads a session.
    let _ = nix::unistd::setsid();
    umask(Mode::from_bits_truncate(launch.umask));
    replace_stdin(&launch.input).map_err(system("changing stdin"))?;
    let tether = lock_tether(&launch.tether)?;
    if let Some(path) = &launch.record {
        write_record(path, &launch.fingerprint)?;
    }
    // The tether stays open in the server and is inherited by its child
    // processes.
    fcntl(&tether, FcntlArg::F_SETFD(FdFlag::empty())).map_err(system("keeping the tether"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&launch.env)
        .current_dir(&launch.folder);
    if let Some(account) = &launch.account {
        // This also clears the supplementary groups.
        command.uid(account.uid).gid(account.gid);
    }
    Err(system(format!("executing {program}"))(command.exec()))
}

/// Closes files that the caller of `up` left open, such as the lock of a script
/// or the end of a pipe. Otherwise the server would keep them open. Files that
/// this program opens itself are closed on `exec`.
fn close_inherited() {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
        if info.is_ok_and(|info| survives_exec(&info)) {
            // Fails if the descriptor is closed already.
            let _ = nix::unistd::close(descriptor);
        }
    }
}

/// Returns whether an open file survives `exec`, according to its
/// `/proc/self/fdinfo`.
fn survives_exec(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| !OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC))
}

/// Replaces stdin by the text.
fn replace_stdin(input: &str) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    // The pipe's buffer holds all of it, so no process has to read yet.
    writer.write_all(input.as_bytes())?;
    nix::unistd::dup2_stdin(&reader)?;
    Ok(())
}

/// Locks the tether, so that a service never runs twice.
fn lock_tether(path: &Path) -> Result<File, Error> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let file =
        files::open(path, &mut options).map_err(system(format!("opening {}", path.display())))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < TETHER_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                let message = format!("{path} is held by another process of the service");
                return Err(Error::new(Kind::Refused, "launch_tethered", message));
            }
            Err(TryLockError::Error(error)) => {
                return Err(system(format!("locking {}", path.display()))(error));
            }
        }
    }
}

fn write_record(path: &Path, fingerprint: &Fingerprint) -> Result<(), Error> {
    let process = Identity::read(std::process::id().cast_signed())
        .ok_or_else(|| system("reading /proc")(io::Error::from(io::ErrorKind::NotFound)))?;
    let record = Record {
        format: RECORD_FORMAT,
        process,
        started_ms: jiff::Timestamp::now().as_millisecond(),
        fingerprint: fingerprint.clone(),
    };
    let text = serde_json::to_vec(&record).map_err(malformed)?;
    write_atomically(path, &text).map_err(system(format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_survive_exec_are_detected() {
        let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t15\n");
        assert!(survives_exec(&info("0100001")));
        assert!(!survives_exec(&info("02100001")));
        assert!(!survives_exec(""));
    }
}
