//! Processes as `/proc` shows them: whether a pid still belongs to the same
//! process, and which processes have a file or a socket open.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Identity of one process. A pid alone is not enough, because the kernel
/// reuses pids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Start time of the process, in clock ticks since boot.
    pub start_ticks: u64,
    /// Boot id of the machine; it changes on each boot.
    pub boot: String,
}

impl Identity {
    /// Returns the identity of a running process.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: stat(pid)?.start_ticks,
            boot: boot(),
        })
    }

    /// Returns whether this process is still running. A zombie is not, unless
    /// it has other threads: they keep its files and ports open until the last
    /// of them exits.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.has_ended())
    }

    /// Returns whether the process is exiting: its first thread is dead, and
    /// other threads still keep its files and ports open.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stat()
            .is_some_and(|stat| stat.is_dead() && !stat.has_ended())
    }

    /// Returns `None` if the pid is unused or belongs to another process.
    fn stat(&self) -> Option<Stat> {
        let stat = stat(self.pid)?;
        (stat.start_ticks == self.start_ticks && boot() == self.boot).then_some(stat)
    }
}

struct Stat {
    /// State of the first thread.
    state: char,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// The first thread of a killed process may die before the others.
    fn has_ended(&self) -> bool {
        self.is_dead() && self.threads <= 1
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `/proc/<pid>/stat`. The command in parentheses may contain anything,
/// so the fields are counted from the last `)`.
fn parse(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3, the number of threads 20, the start time 22.
    let threads = fields.nth(16)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        threads,
        start_ticks,
    })
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Returns the short name of a process: `sshd`.
#[must_use]
pub fn command(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(text.trim_end().to_owned())
}

/// Returns all pids.
pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns whether `is_wanted` accepts the link target of one of the process's
/// open files.
#[must_use]
pub fn has_open(pid: i32, is_wanted: impl Fn(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| is_wanted(&target))
}

/// Returns the other processes that have this file open, as far as this user
/// can see them.
#[must_use]
pub fn holders_of(path: &Path) -> Vec<i32> {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let current = std::process::id().cast_signed();
    all()
        .filter(|pid| *pid != current && has_open(*pid, |target| target == path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current() -> Identity {
        Identity::read(std::process::id().cast_signed()).expect("this process exists")
    }

    #[test]
    fn an_identity_with_another_start_time_or_boot_is_not_alive() {
        assert!(current().is_alive());
        let previous_process = Identity {
            start_ticks: current().start_ticks - 1,
            ..current()
        };
        assert!(!previous_process.is_alive());
        let previous_boot = Identity {
            boot: "other".to_owned(),
            ..current()
        };
        assert!(!previous_boot.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("start the child");
        let pid = child.id().cast_signed();
        let identity = Identity::read(pid).expect("the child exists");
        while stat(pid).is_some_and(|stat| stat.state != 'Z') {
            std::thread::yield_now();
        }
        assert!(!identity.is_alive() && !identity.is_ending());
        child.wait().expect("wait for the child");
    }

    #[test]
    fn a_zombie_with_running_threads_has_not_ended() {
        let line = "17713 (a ) b) Z 17710 17710 1506 0 -1 4227084 3047 6523 1 0 2 1 2 1 20 0 2 0 49997 0 0 18446744073709551615 0 0 0 0 0 0 0 16781318 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let stat = parse(line).expect("a valid line");
        assert_eq!((stat.threads, stat.start_ticks), (2, 49997));
        assert!(stat.is_dead() && !stat.has_ended());
        let last_thread = Stat { threads: 1, ..stat };
        assert!(last_thread.has_ended());
    }
}
