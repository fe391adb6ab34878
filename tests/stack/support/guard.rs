//! Cleans up behind the tests, however their process ends: a process of its
//! own that waits for the end of its input.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use fanout::stack::proc::Identity;

use super::binary::{Fanout, PROGRAM};

/// Reads pids, each with when its process was started, to the end of its input;
/// kills those that are still there, resets every project of the home, and
/// removes it. A pid alone may have become another process's meanwhile, also one
/// of this binary, of tests that run beside these.
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

/// Cleans up when dropped, or when this process is gone.
#[derive(Debug)]
pub struct Guard {
    input: Mutex<Option<ChildStdin>>,
    child: Child,
}

impl Guard {
    pub fn new(fanout: &Fanout, home: &Path) -> Self {
        // The environment is what the binary is called with everywhere.
        let surroundings = fanout.command(&[]);
        let mut command = Command::new("sh");
        for (name, value) in surroundings.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command
            .args(["-c", SCRIPT, PROGRAM])
            .arg(home)
            // Ctrl-C is for the tests.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        Self {
            input: Mutex::new(child.stdin.take()),
            child,
        }
    }

    /// Kills this process too, should it outlive the tests.
    pub fn watch(&self, pid: u32) {
        let Some(process) = Identity::of(pid.cast_signed()) else {
            return;
        };
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let input = input.as_mut().expect("open until dropped");
        writeln!(input, "{pid} {}", process.start_ticks).expect("the guard reads");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let input = self.input.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(input.take());
        // A failed reset has said so on stderr.
        let _ = self.child.wait();
    }
}
