//! What the kernel knows of processes, read from `/proc`: whether a pid is
//! still the process that was meant, and who holds a file or a socket.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// One life of a process. A pid alone does not tell: pids come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks between the machine's start and the process's.
    pub start_ticks: u64,
    /// Differs after each start of the machine.
    pub boot: String,
}

impl Identity {
    /// Of a process that is there now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: stat(pid)?.start_ticks,
            boot: boot(),
        })
    }

    /// Whether this very process still runs; a zombie does not. One of which
    /// threads are left does: it has its files and ports until the last is
    /// gone.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.has_ended())
    }

    /// Whether it is on its way out: its first thread is dead, and the others
    /// hold what it held.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stat()
            .is_some_and(|stat| stat.is_dead() && !stat.has_ended())
    }

    /// None where the pid is nobody's or another process's.
    fn stat(&self) -> Option<Stat> {
        let stat = stat(self.pid)?;
        (stat.start_ticks == self.start_ticks && boot() == self.boot).then_some(stat)
    }
}

struct Stat {
    /// Of the thread that is the process's first.
    state: char,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// A killed process's first thread may be dead before the others are.
    fn has_ended(&self) -> bool {
        self.is_dead() && self.threads <= 1
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/<pid>/stat`: the command in parentheses may hold anything, so fields
/// are counted from its last `)`.
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

/// The short name of a process: `sshd`.
#[must_use]
pub fn command(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(text.trim_end().to_owned())
}

/// Every pid there is.
pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether one of the process's open files is what `wanted` says of its link.
#[must_use]
pub fn has_open(pid: i32, wanted: impl Fn(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| wanted(&target))
}

/// The processes that hold this file open, as far as they can be seen.
#[must_use]
pub fn holders_of(path: &Path) -> Vec<i32> {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = std::process::id().cast_signed();
    all()
        .filter(|pid| *pid != own && has_open(*pid, |target| target == path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Identity {
        Identity::of(std::process::id().cast_signed()).expect("this process is there")
    }

    #[test]
    fn this_process_is_alive_and_another_life_of_its_pid_is_not() {
        assert!(own().is_alive());
        let earlier = Identity {
            start_ticks: own().start_ticks - 1,
            ..own()
        };
        assert!(!earlier.is_alive());
        let before_the_last_boot = Identity {
            boot: "other".to_owned(),
            ..own()
        };
        assert!(!before_the_last_boot.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let pid = child.id().cast_signed();
        let identity = Identity::of(pid).expect("not yet waited for");
        while stat(pid).is_some_and(|stat| stat.state != 'Z') {
            std::thread::yield_now();
        }
        assert!(!identity.is_alive() && !identity.is_ending());
        child.wait().expect("waited for");
    }

    #[test]
    fn a_zombie_of_which_threads_are_left_has_not_ended() {
        let line = "17713 (a ) b) Z 17710 17710 1506 0 -1 4227084 3047 6523 1 0 2 1 2 1 20 0 2 0 49997 0 0 18446744073709551615 0 0 0 0 0 0 0 16781318 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let stat = parse(line).expect("a process");
        assert_eq!((stat.threads, stat.start_ticks), (2, 49997));
        assert!(stat.is_dead() && !stat.has_ended());
        let last = Stat { threads: 1, ..stat };
        assert!(last.has_ended());
    }
}
