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

    /// Whether this very process still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| {
            stat.start_ticks == self.start_ticks
                && !matches!(stat.state, 'Z' | 'X')
                && boot() == self.boot
        })
    }
}

struct Stat {
    state: char,
    start_ticks: u64,
}

/// `/proc/<pid>/stat`: the command in parentheses may hold anything, so fields
/// are counted from its last `)`.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3, the start time field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
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
        assert!(!identity.is_alive());
        child.wait().expect("waited for");
    }
}
