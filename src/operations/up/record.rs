//! The state file of a new project before the operator has confirmed the `up`. Other projects
//! must see its ports, but the file must be removed if the `up` was refused, failed in its
//! review, or was interrupted at the question.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::stack::ProjectDir;

/// Removes a new state file when it is dropped, unless [`Record::keep`] was called.
#[derive(Debug)]
pub(super) struct Record {
    /// Path of the state file. `None` if the file existed before or is not written.
    new: Option<PathBuf>,
    is_kept: AtomicBool,
}

impl Record {
    /// Creates a guard without a state file.
    pub(super) fn none() -> Self {
        Self {
            new: None,
            is_kept: AtomicBool::new(false),
        }
    }

    /// Creates the guard. Must be called before the state file is written.
    pub(super) fn begin(dir: &ProjectDir) -> Self {
        let path = dir.state();
        Self {
            new: (!path.exists()).then_some(path),
            is_kept: AtomicBool::new(false),
        }
    }

    /// Keeps the state file, because the operator has confirmed or nothing required it.
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(path) = &self.new
            && !self.is_kept.load(Ordering::Relaxed)
        {
            // Fails if the file was never written.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_and_unconfirmed_state_file_is_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state.json");
        for (is_new, is_kept, stays) in [
            (true, false, false),
            (true, true, true),
            (false, false, true),
        ] {
            fs::write(&path, "{}").expect("written");
            let record = Record {
                new: is_new.then(|| path.clone()),
                is_kept: AtomicBool::new(false),
            };
            if is_kept {
                record.keep();
            }
            drop(record);
            assert_eq!(path.exists(), stays, "{is_new} {is_kept}");
        }
    }
}
