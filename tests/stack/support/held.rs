//! Paused processes.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A paused process. It resumes when this value is dropped, even if the test
/// fails, because a paused process cannot be stopped.
#[derive(Debug)]
pub struct PausedProcess(Pid);

impl PausedProcess {
    pub fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).expect("pause the process");
        Self(pid)
    }
}

impl Drop for PausedProcess {
    fn drop(&mut self) {
        // The process may have been killed in the meantime.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
