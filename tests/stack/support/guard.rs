//! Cleans up after the tests, even if their process is killed: a separate
//! process waits for the end of its input.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use fanout::stack::proc::Identity;

use super::binary::{Fanout, PROGRAM};

/// Reads pids and start times until the end of its input. Then kills the
/// processes that are still running, resets every project under the home
/// folder, and removes the folder. The start time is compared because a pid may
/// have been reused, even by this binary in tests that run in parallel.
const SCRIPT: &str = r#"
processes=
while read -r pid started; do processes="$processes $pid:$started"; done
for process in $processes; do
    pid=${process%:*}
    now=$(cut -d ' ' -f 22 "/proc/$pid/stat" 2>/dev/null)
    [ "$now" = "${process#*:}" ] && kill -9 "$pid"
done
for state in "$1"/*/state.json; do
    project=$(basename "$(dirname "$state")")
    [ -e "$state" ] && "$0" --quiet --project "$project" reset --yes
done
rm -rf "$1"
"#;

/// Cleans up when dropped or when this process ends.
#[derive(Debug)]
pub struct Guard {
    input: Mutex<Option<ChildStdin>>,
    child: Child,
}

impl Guard {
    pub fn new(fanout: &Fanout, home: &Path) -> Self {
        // The binary runs with the same environment everywhere.
        let call = fanout.command(&[]);
        let mut command = Command::new("sh");
        for (name, value) in call.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command
            .args(["-c", SCRIPT, PROGRAM])
            .arg(home)
            // Ctrl-C must reach only the tests.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("spawn the guard's shell");
        Self {
            input: Mutex::new(child.stdin.take()),
            child,
        }
    }

    /// Registers a process to be killed if it outlives the tests.
    pub fn watch(&self, pid: u32) {
        let Some(process) = Identity::read(pid.cast_signed()) else {
            return;
        };
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let input = input
            .as_mut()
            .expect("the input is open until the guard is dropped");
        writeln!(input, "{pid} {}", process.start_ticks).expect("write to the guard");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let input = self.input.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(input.take());
        // A failed reset prints its error to stderr.
        let _ = self.child.wait();
    }
}
