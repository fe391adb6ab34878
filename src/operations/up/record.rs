//! The record of a new project while nobody has agreed to it: other projects
//! have to see which ports it takes, but it must not outlive an `up` that was
//! refused, failed in its review, or was interrupted at the question.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::stack::ProjectDir;

/// Removes the record when it is dropped, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Record {
    /// None where there was a record before, or none is written.
    new: Option<PathBuf>,
    is_kept: AtomicBool,
}

impl Record {
    /// Nothing is written.
    pub(super) fn none() -> Self {
        Self {
            new: None,
            is_kept: AtomicBool::new(false),
        }
    }

    /// Called before the record is written.
    pub(super) fn begin(dir: &ProjectDir) -> Self {
        let path = dir.state();
        Self {
            new: (!path.exists()).then_some(path),
            is_kept: AtomicBool::new(false),
        }
    }

    /// The operator has agreed, or had nothing to agree to.
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(path) = &self.new
            && !self.is_kept.load(Ordering::Relaxed)
        {
            // Where it was never written there is nothing to remove.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_record_that_nobody_agreed_to_is_removed() {
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
