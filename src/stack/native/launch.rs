//! The last steps of a process before it becomes a server, taken by the
//! process itself: so that it is on record before it is a server, and no
//! moment's kill of `up` can leave one that nobody knows of.
//!
//! `up` starts fanout's own binary with the one argument `launch`, which is no
//! command of the command line's, and writes a [`Task`] to its stdin. It leaves
//! the terminal's session, locks the service's *tether* (whoever holds it open
//! belongs to the service), writes the record, and executes the server, which
//! keeps pid and tether. Commands
//! that only prepare something go the same way, without a record. So does the
//! [writer](super::log_writer) of the service's log, with what it is to write
//! after its task.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
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
    failure::{Failure, Kind},
    plan::Fingerprint,
    stack::{
        files::{self, write_atomically},
        proc::Identity,
    },
};

/// Format of [`Record`].
pub const RECORD_FORMAT: u32 = 1;

/// How long what an earlier life of the service left behind may hold the tether.
const TETHER_PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a service's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub process: Identity,
    /// Milliseconds since the epoch.
    pub started_ms: i64,
    /// What it was started with.
    pub fingerprint: Fingerprint,
}

/// Why the process did not become the server.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("stdin holds no launch")]
    Malformed(#[from] serde_json::Error),
    #[error("{} is held by another process of the service", path.display())]
    Tethered { path: PathBuf },
    #[error("the launch has no command")]
    NoCommand,
    #[error("{what} failed")]
    System {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl Failure for LaunchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_) | Self::NoCommand => Kind::Usage,
            Self::Tethered { .. } => Kind::Refused,
            Self::System { .. } => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::NoCommand => "launch_malformed",
            Self::Tethered { .. } => "launch_tethered",
            Self::System { .. } => "launch_failed",
        }
    }
}

fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> LaunchError {
    let what = what.into();
    |error| LaunchError::System {
        what,
        source: error.into(),
    }
}

/// Whether this process was started to do a [`Task`]: these are its arguments,
/// its name first.
#[must_use]
pub fn is_asked_for(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments.into_iter().skip(1);
    arguments.next().is_some_and(|first| first == LAUNCH) && arguments.next().is_none()
}

/// Reads a [`Task`] from stdin and does it. What is to become a server returns
/// only when it cannot.
///
/// # Errors
/// When the task cannot be done.
pub fn launch() -> Result<(), LaunchError> {
    close_inherited();
    let mut input = BufReader::new(io::stdin().lock());
    let mut line = String::new();
    let read = input.read_line(&mut line);
    read.map_err(system("reading stdin"))?;
    match serde_json::from_str(&line)? {
        Task::Serve(launch) => match serve(&launch)? {},
        Task::WriteLog(log) => {
            let path = log.path.display().to_string();
            log_writer::write(log, input).map_err(system(format!("writing {path}")))
        }
    }
}

fn serve(launch: &Launch) -> Result<std::convert::Infallible, LaunchError> {
    let (program, arguments) = launch.command.split_first().ok_or(LaunchError::NoCommand)?;
    // Fails only for one that leads a session already.
    let _ = nix::unistd::setsid();
    umask(Mode::from_bits_truncate(launch.umask));
    feed(&launch.input).map_err(system("changing stdin"))?;
    let tether = hold(&launch.tether)?;
    if let Some(path) = &launch.record {
        record(path, &launch.fingerprint)?;
    }
    // From here on the tether goes wherever the process and its children go.
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

/// Closes what whoever called `up` left open: a server would hold it, say the
/// lock of a script or the end of its pipe, for as long as it lives. All that
/// this program opens itself closes when it executes another.
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
        if info.is_ok_and(|info| is_passed_on(&info)) {
            // It fails for one that is closed by now.
            let _ = nix::unistd::close(descriptor);
        }
    }
}

/// Whether `/proc/self/fdinfo` says of an open file that it outlives `exec`.
fn is_passed_on(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| !OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC))
}

/// Puts the text in place of stdin.
fn feed(input: &str) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    // As long as a pipe holds it, nobody has to read meanwhile.
    writer.write_all(input.as_bytes())?;
    nix::unistd::dup2_stdin(&reader)?;
    Ok(())
}

/// Locks the tether, so that a service never runs twice.
fn hold(path: &Path) -> Result<File, LaunchError> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let file =
        files::open(path, &mut options).map_err(system(format!("opening {}", path.display())))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < TETHER_PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LaunchError::Tethered {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(system(format!("locking {}", path.display()))(error));
            }
        }
    }
}

fn record(path: &Path, fingerprint: &Fingerprint) -> Result<(), LaunchError> {
    let process = Identity::of(std::process::id().cast_signed())
        .ok_or_else(|| system("reading /proc")(io::Error::from(io::ErrorKind::NotFound)))?;
    let record = Record {
        format: RECORD_FORMAT,
        process,
        started_ms: jiff::Timestamp::now().as_millisecond(),
        fingerprint: fingerprint.clone(),
    };
    let text = serde_json::to_vec(&record)?;
    write_atomically(path, &text).map_err(system(format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_outlives_an_exec_is_told_from_what_does_not() {
        let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t15\n");
        assert!(is_passed_on(&info("0100001")));
        assert!(!is_passed_on(&info("02100001")));
        assert!(!is_passed_on(""));
    }
}
