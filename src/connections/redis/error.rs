//! Classifies the errors of Redis, by the kinds of the crate and by the code at the
//! start of every error of the server. The rest of an error's text is not evaluated.

use redis::{ErrorKind, ServerErrorKind};

/// Cause of a failed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisProblem {
    /// The server refuses the user or the password, or the user lacks a permission.
    Denied,
    /// The server is a replica and refuses writes.
    ReadOnly,
    /// The server has reached its memory limit.
    OutOfMemory,
    /// The server cannot save its data, and refuses writes until it can.
    NotSaving,
    /// The server is loading its data from disk.
    Loading,
    /// The server is a replica that has lost its primary.
    NoPrimary,
    /// Any other cause, such as an unreachable server or an invalid command.
    Other,
}

/// An error of a Redis command, with its cause.
#[derive(Debug)]
pub struct RedisError {
    problem: RedisProblem,
    error: redis::RedisError,
}

impl RedisError {
    /// Returns the cause.
    #[must_use]
    pub fn problem(&self) -> RedisProblem {
        self.problem
    }

    /// Returns true if the credentials or permissions are wrong.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.problem == RedisProblem::Denied
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed => Some(RedisProblem::Denied),
            ErrorKind::Server(kind) => problem_by_kind(kind),
            _ => None,
        };
        let problem = kind
            .or_else(|| error.code().and_then(problem_by_code))
            .or_else(|| problem_in_script(&error));
        Self {
            problem: problem.unwrap_or(RedisProblem::Other),
            error,
        }
    }
}

fn problem_by_kind(kind: ServerErrorKind) -> Option<RedisProblem> {
    match kind {
        ServerErrorKind::NoPerm => Some(RedisProblem::Denied),
        ServerErrorKind::ReadOnly => Some(RedisProblem::ReadOnly),
        ServerErrorKind::BusyLoading => Some(RedisProblem::Loading),
        ServerErrorKind::MasterDown => Some(RedisProblem::NoPrimary),
        _ => None,
    }
}

fn problem_by_code(code: &str) -> Option<RedisProblem> {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Some(RedisProblem::Denied),
        "READONLY" => Some(RedisProblem::ReadOnly),
        "OOM" => Some(RedisProblem::OutOfMemory),
        "MISCONF" => Some(RedisProblem::NotSaving),
        "LOADING" => Some(RedisProblem::Loading),
        "MASTERDOWN" => Some(RedisProblem::NoPrimary),
        _ => None,
    }
}

/// Returns the problem of a command within a script. Before version 7, Redis wraps such
/// an error: `ERR Error running script (call to f_…): @user_script:1: -READONLY …`.
fn problem_in_script(error: &redis::RedisError) -> Option<RedisProblem> {
    let detail = error.detail()?;
    let (_, inner) = detail
        .strip_prefix("Error running script")?
        .split_once("@user_script:")?;
    let mut words = inner.split_ascii_whitespace();
    words.find_map(|word| problem_by_code(word.trim_start_matches('-')))
}

impl std::fmt::Display for RedisError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self.problem {
            RedisProblem::Denied => "it refuses the credentials of redis.url",
            RedisProblem::ReadOnly => "it is a read-only replica",
            RedisProblem::OutOfMemory => "it has reached its maxmemory and refuses writes",
            RedisProblem::NotSaving => "it cannot save its data to disk and refuses writes",
            RedisProblem::Loading => "it is still loading its data",
            RedisProblem::NoPrimary => "it is a replica that has lost its primary",
            RedisProblem::Other => return self.error.fmt(formatter),
        };
        match self.error.code() {
            Some(code) => write!(formatter, "{words} ({code})"),
            None => formatter.write_str(words),
        }
    }
}

impl std::error::Error for RedisError {
    /// Returns a source only if the displayed text does not describe the error
    /// completely.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.problem {
            RedisProblem::Other => self.error.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the error for this response of the server.
    fn error(line: &str) -> RedisError {
        let response = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        let value = response.expect("a valid response");
        let error = value.extract_error().expect_err("an error response");
        error.into()
    }

    #[test]
    fn each_response_is_classified_by_its_code() {
        for (line, problem) in [
            ("NOAUTH Authentication required.", RedisProblem::Denied),
            (
                "WRONGPASS invalid username-password pair",
                RedisProblem::Denied,
            ),
            ("NOPERM this user has no permissions", RedisProblem::Denied),
            (
                "READONLY You can't write against a read only replica.",
                RedisProblem::ReadOnly,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                RedisProblem::OutOfMemory,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                RedisProblem::NotSaving,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                RedisProblem::Loading,
            ),
            (
                "MASTERDOWN Link with MASTER is down",
                RedisProblem::NoPrimary,
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: \
                 -READONLY You can't write against a read only replica.",
                RedisProblem::ReadOnly,
            ),
            ("ERR no such key: OOM", RedisProblem::Other),
            ("ERR unknown command", RedisProblem::Other),
        ] {
            assert_eq!(error(line).problem(), problem, "{line}");
        }
    }

    #[test]
    fn the_message_describes_the_problem_and_includes_the_code() {
        assert_eq!(
            error("OOM command not allowed").to_string(),
            "it has reached its maxmemory and refuses writes (OOM)"
        );
        assert!(error("WRONGPASS x").is_denied());
    }
}
