//! Progress reports of long work. The library reports; the binary decides whether to show a
//! bar, a plain line, or nothing.

pub(crate) mod steps;

/// The unit of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Records,
    Rows,
    Events,
}

/// An event of a named task. Tasks run concurrently and are identified by their names, for
/// example a service's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The task has started an activity, such as `waiting for the broker`.
    Doing { task: &'a str, what: &'a str },
    /// The task has reached this amount of a total, if the total is known.
    Advanced {
        task: &'a str,
        done: u64,
        total: Option<u64>,
        unit: Unit,
    },
    /// The task succeeded.
    Done { task: &'a str, what: &'a str },
    /// The task failed. The error itself is returned as a result.
    Failed { task: &'a str, what: &'a str },
    /// Information for the operator that belongs to no task.
    Note { text: &'a str },
}

/// Receives progress. Implementations must not block.
pub trait Progress: Send + Sync {
    fn report(&self, event: Event<'_>);
}

/// Discards all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _event: Event<'_>) {}
}

/// Forwards notes and discards everything else.
pub struct NotesOnly<'a>(pub &'a dyn Progress);

impl Progress for NotesOnly<'_> {
    fn report(&self, event: Event<'_>) {
        if matches!(event, Event::Note { .. }) {
            self.0.report(event);
        }
    }
}
