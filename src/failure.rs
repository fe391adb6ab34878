//! What every error of the library can say of itself, so that the binary can
//! turn any of them into an exit code and a message without knowing it.
//!
//! The errors themselves live with the modules that raise them.

use std::error::Error;

/// The kinds of failure an operator or a CI job has to tell apart. The binary
/// maps each to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The work was tried and failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Something the machine should offer is missing or taken: a daemon, a
    /// binary, a port, disk space.
    Environment,
    /// Not ready in time; trying again may help.
    NotReady,
    /// The work was done and what it checked is false.
    CheckFalse,
    /// Declined on purpose: locked, not ours, or wants `--yes`.
    Refused,
    /// Stopped by a signal, carrying its number.
    Interrupted(i32),
}

/// An error that knows its kind, a stable machine-readable code, and what to
/// do about it.
pub trait Failure: Error + Send + Sync + 'static {
    /// The kind of failure.
    fn kind(&self) -> Kind;

    /// A stable `snake_case` name for programs, such as `port_taken`.
    fn code(&self) -> &'static str;

    /// What mends it: usually the next command to type.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The error and all of its sources, joined by `: `, as one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some client crates already print their source.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer failed")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_each_cause_once() {
        let error = Outer(std::io::Error::other("inner reason"));
        assert_eq!(chain(&error), "outer failed: inner reason");
    }
}
