//! Processes that are held still.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process that stands still. It goes on when this is dropped, also where the
/// test fails: what stands still cannot be taken down.
#[derive(Debug)]
pub struct Held(Pid);

impl Held {
    pub fn after_stopping(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).expect("it runs");
        Self(pid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
