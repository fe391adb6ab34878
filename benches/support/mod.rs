//! Support for the benchmarks: a real stack, started for the run and removed
//! afterwards.

use std::{path::PathBuf, process::Command};

use fanout::{
    config::{Config, Layers, Settings, load, project::Project},
    stack::{Home, recorded_settings},
};

/// A stack of the benchmark, removed when dropped.
pub struct Stack {
    home: PathBuf,
    program: PathBuf,
}

impl Stack {
    /// Brings up a stack without its pipeline, using this binary.
    pub fn up(program: impl Into<PathBuf>) -> Self {
        let home = std::env::temp_dir().join(format!("fanout-bench-{}", std::process::id()));
        std::fs::create_dir_all(&home).expect("create the folder");
        let program = program.into();
        let stack = Self { home, program };
        stack.fanout(&["up", "--ports", "auto", "--no-run"]);
        stack
    }

    pub fn fanout(&self, arguments: &[&str]) {
        let status = self.command(arguments).status().expect("run fanout");
        assert!(status.success(), "fanout {arguments:?}: {status}");
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // The caller's settings must not affect the benchmark.
        for (name, _) in std::env::vars_os() {
            let is_setting = name.to_string_lossy().starts_with("FANOUT_");
            if is_setting && name != "FANOUT_CACHE" {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env("FANOUT_HOME", &self.home)
            .current_dir(&self.home);
        command
    }

    pub fn settings(&self) -> Settings {
        let project = Project::default();
        let recorded = recorded_settings(&Home::at(&self.home), &project).expect("a state");
        let layers = Layers {
            project,
            recorded,
            ..Layers::default()
        };
        let Config { settings, .. } = load(&layers).expect("valid settings");
        settings
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.fanout(&["reset", "--yes", "--quiet"]);
        // The home is a temporary folder, so leftovers are harmless.
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Returns whether `BENCH_ONLY` selects this measurement, or `None` if it is
/// not set.
pub fn is_selected(name: &str) -> Option<bool> {
    let only = std::env::var("BENCH_ONLY").ok()?;
    Some(only.split(',').any(|selected| selected == name))
}
