//! How long work tells what it is doing. The library reports; the binary
//! decides whether that becomes a bar, a plain line, or nothing.

/// What an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Records,
    Rows,
    Events,
}

/// One thing that happened to a named task. Tasks run side by side; each is
/// known by its name, for instance a service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The task is now busy with this: `waiting for the broker`.
    Doing { task: &'a str, what: &'a str },
    /// How far the task is, of how much where that is known.
    Advanced {
        task: &'a str,
        done: u64,
        total: Option<u64>,
        unit: Unit,
    },
    /// The task ended well.
    Done { task: &'a str, what: &'a str },
    /// The task ended badly; the error itself travels as a result.
    Failed { task: &'a str, what: &'a str },
    /// Something the operator should know that belongs to no task.
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

/// Passes on notes and drops everything else.
pub struct NotesOnly<'a>(pub &'a dyn Progress);

impl Progress for NotesOnly<'_> {
    fn report(&self, event: Event<'_>) {
        if matches!(event, Event::Note { .. }) {
            self.0.report(event);
        }
    }
}
