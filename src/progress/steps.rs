//! Progress of one task without repetition: a polling loop only reports changes.

use std::sync::{Mutex, PoisonError};

use crate::progress::{Event, Progress, Unit};

/// Reports the progress of one named task.
pub struct Steps<'a> {
    progress: &'a dyn Progress,
    task: &'a str,
    last: Mutex<String>,
}

impl<'a> Steps<'a> {
    /// Creates a reporter for the task.
    pub fn new(progress: &'a dyn Progress, task: &'a str) -> Self {
        Self {
            progress,
            task,
            last: Mutex::default(),
        }
    }

    /// Reports the current activity of the task, unless it was the last one reported.
    pub fn doing(&self, what: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == what {
            return;
        }
        what.clone_into(&mut last);
        self.progress.report(Event::Doing {
            task: self.task,
            what,
        });
    }

    /// Reports the amount of work done.
    pub fn advanced(&self, done: u64, total: Option<u64>, unit: Unit) {
        self.progress.report(Event::Advanced {
            task: self.task,
            done,
            total,
            unit,
        });
    }

    /// Reports that the task succeeded.
    pub fn done(&self, what: &str) {
        self.progress.report(Event::Done {
            task: self.task,
            what,
        });
    }
}
