//! Progress of one task without repetition: a loop that looks again and again
//! tells only what is new.

use std::sync::{Mutex, PoisonError};

use crate::progress::{Event, Progress, Unit};

/// One named task's progress.
pub struct Steps<'a> {
    progress: &'a dyn Progress,
    task: &'a str,
    last: Mutex<String>,
}

impl<'a> Steps<'a> {
    /// Nothing said yet.
    pub fn new(progress: &'a dyn Progress, task: &'a str) -> Self {
        Self {
            progress,
            task,
            last: Mutex::default(),
        }
    }

    /// Tells what the task is doing, unless that was the last thing told.
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

    /// Tells how far it is.
    pub fn advanced(&self, done: u64, total: Option<u64>, unit: Unit) {
        self.progress.report(Event::Advanced {
            task: self.task,
            done,
            total,
            unit,
        });
    }

    /// Tells that it ended well.
    pub fn done(&self, what: &str) {
        self.progress.report(Event::Done {
            task: self.task,
            what,
        });
    }
}
