//! The common interface of all errors of the library, through which the binary turns any error
//! into an exit code and a message.
//!
//! The errors themselves are defined by the modules that return them.

use std::error::Error;

/// The kinds of failure that an operator or a CI job has to distinguish. The binary maps each
/// kind to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The work was attempted and failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The machine lacks something, or it is in use: a daemon, a binary, a port, disk space.
    Environment,
    /// Not ready in time. Retrying may help.
    NotReady,
    /// The work was done, and its check failed.
    CheckFalse,
    /// Refused deliberately: locked, not managed by this project, or confirmation (`--yes`)
    /// required.
    Refused,
    /// Stopped by the signal with this number.
    Interrupted(i32),
}

/// An error with a kind, a stable machine-readable code, and a hint.
pub trait Failure: Error + Send + Sync + 'static {
    /// Returns the kind of failure.
    fn kind(&self) -> Kind;

    /// Returns a stable `snake_case` name for programs, such as `port_taken`.
    fn code(&self) -> &'static str;

    /// Returns a way to fix the problem: usually the next command to run.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Returns the error and all of its sources as one line, joined by `: `.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some client crates already include their source.
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
