//! The two displays of progress: bars on a terminal, one plain line per step
//! elsewhere. Text from servers may be in both, so everything is escaped.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanout::{
    progress::{Event, Progress, Unit},
    text::escape::escape_lines,
};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::streams::{Secrets, say};

/// Minimum interval between two lines with a task's amount.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Removes the secrets that servers may repeat from progress events.
#[derive(Debug)]
pub struct Redacted<P> {
    progress: P,
    secrets: Secrets,
}

impl<P> Redacted<P> {
    pub fn new(progress: P, secrets: Secrets) -> Self {
        Self { progress, secrets }
    }
}

impl<P: Progress> Progress for Redacted<P> {
    fn report(&self, event: Event<'_>) {
        let text = match &event {
            Event::Doing { what, .. } | Event::Done { what, .. } | Event::Failed { what, .. } => {
                *what
            }
            Event::Note { text } => *text,
            Event::Advanced { .. } => return self.progress.report(event),
        };
        let text = self.secrets.redact(text);
        self.progress.report(match event {
            Event::Doing { task, .. } => Event::Doing { task, what: &text },
            Event::Done { task, .. } => Event::Done { task, what: &text },
            Event::Failed { task, .. } => Event::Failed { task, what: &text },
            _ => Event::Note { text: &text },
        });
    }
}

/// Shows a bar or spinner for each task.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    tasks: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            tasks: Mutex::default(),
        }
    }

    fn bar(&self, task: &str) -> ProgressBar {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = tasks.get(task) {
            return bar.clone();
        }
        let bar = self.all.add(ProgressBar::no_length());
        bar.set_style(style("{spinner} {prefix:<12} {msg}"));
        bar.set_prefix(task.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        tasks.insert(task.to_owned(), bar.clone());
        bar
    }

    fn end(&self, task: &str, mark: &str, what: &str) {
        let bar = self.bar(task);
        bar.set_style(style(&format!("{mark} {{prefix:<12}} {{msg}}")));
        bar.finish_with_message(escape_lines(what));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.remove(task);
    }
}

/// Parses a template, which is a constant of this file. An invalid template
/// would show the default style.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Progress for Bars {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Doing { task, what } => self.bar(task).set_message(escape_lines(what)),
            Event::Advanced {
                task,
                done,
                total,
                unit,
            } => {
                let bar = self.bar(task);
                if let Some(total) = total
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    bar.set_style(style(match unit {
                        Unit::Bytes => {
                            "{prefix:<12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
                        }
                        _ => "{prefix:<12} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
                    }));
                }
                bar.set_position(done);
                if total.is_none() {
                    bar.set_message(amount(done, None, unit));
                }
            }
            Event::Done { task, what } => self.end(task, "✔", what),
            Event::Failed { task, what } => self.end(task, "✘", what),
            Event::Note { text } => {
                // If the terminal is closed, the note cannot be shown.
                let _ = self.all.println(escape_lines(text));
            }
        }
    }
}

/// Prints one line for each step, and one per interval for an amount.
#[derive(Debug, Default)]
pub struct Lines {
    last_reports: Mutex<HashMap<String, Instant>>,
}

impl Lines {
    /// Returns true if this task's amount should be printed now.
    fn is_due(&self, task: &str) -> bool {
        let reports = self.last_reports.lock();
        let mut reports = reports.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match reports.get(task) {
            Some(last) if now.duration_since(*last) < LINE_INTERVAL => false,
            _ => {
                reports.insert(task.to_owned(), now);
                true
            }
        }
    }
}

impl Progress for Lines {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Doing { task, what }
            | Event::Done { task, what }
            | Event::Failed { task, what } => say(&format!("{task}: {}", escape_lines(what))),
            Event::Advanced {
                task,
                done,
                total,
                unit,
            } => {
                if total == Some(done) || self.is_due(task) {
                    say(&format!("{task}: {}", amount(done, total, unit)));
                }
            }
            Event::Note { text } => say(&escape_lines(text)),
        }
    }
}

/// Formats an amount: `12.3 MiB of 54.0 MiB`, `1200 of 5000 rows`, `1200 rows`.
fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    let mut text = String::new();
    let (show, name): (fn(u64) -> String, &str) = match unit {
        Unit::Bytes => (|bytes| HumanBytes(bytes).to_string(), ""),
        Unit::Records => (|count| count.to_string(), " records"),
        Unit::Rows => (|count| count.to_string(), " rows"),
        Unit::Events => (|count| count.to_string(), " events"),
    };
    text.push_str(&show(done));
    if let Some(total) = total {
        // Writing to a string cannot fail.
        let _ = write!(text, " of {}", show(total));
    }
    text.push_str(name);
    text
}
