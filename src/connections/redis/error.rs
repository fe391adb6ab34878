//! What an error of Redis's means. It is told by the crate's kinds and by the
//! code that every error of the server's begins with; the rest of its text is
//! for people.

use redis::{ErrorKind, ServerErrorKind};

/// What a failed command says of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisProblem {
    /// It refuses the user, the password, or what the user may do.
    Denied,
    /// It is a replica, which takes no writes.
    ReadOnly,
    /// It holds as much as it may.
    OutOfMemory,
    /// It cannot save what it holds, and takes no writes until it can.
    NotSaving,
    /// It reads its data from disk.
    Loading,
    /// It is a replica that has lost its primary.
    NoPrimary,
    /// Anything else: not there, gone away, a mistake of ours.
    Other,
}

/// An error of Redis's, in words.
#[derive(Debug)]
pub struct RedisError {
    problem: RedisProblem,
    error: redis::RedisError,
}

impl RedisError {
    /// What it says of the server.
    #[must_use]
    pub fn problem(&self) -> RedisProblem {
        self.problem
    }

    /// Whether the credentials have to be changed.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.problem == RedisProblem::Denied
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed => Some(RedisProblem::Denied),
            ErrorKind::Server(kind) => of_kind(kind),
            _ => None,
        };
        let of_code = || error.code().and_then(of_code);
        let problem = kind.or_else(of_code).or_else(|| of_script(&error));
        Self {
            problem: problem.unwrap_or(RedisProblem::Other),
            error,
        }
    }
}

fn of_kind(kind: ServerErrorKind) -> Option<RedisProblem> {
    match kind {
        ServerErrorKind::NoPerm => Some(RedisProblem::Denied),
        ServerErrorKind::ReadOnly => Some(RedisProblem::ReadOnly),
        ServerErrorKind::BusyLoading => Some(RedisProblem::Loading),
        ServerErrorKind::MasterDown => Some(RedisProblem::NoPrimary),
        _ => None,
    }
}

fn of_code(code: &str) -> Option<RedisProblem> {
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

/// Before version 7 Redis puts the error of a command within a script behind
/// one of its own: `ERR Error running script (call to f_…): @user_script:1:
/// -READONLY …`.
fn of_script(error: &redis::RedisError) -> Option<RedisProblem> {
    let detail = error.detail()?;
    let (_, inner) = detail
        .strip_prefix("Error running script")?
        .split_once("@user_script:")?;
    let mut words = inner.split_ascii_whitespace();
    words.find_map(|word| of_code(word.trim_start_matches('-')))
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
    /// Only where the words do not say it all.
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

    /// An error as the server's answer makes it.
    fn answered(line: &str) -> RedisError {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        let value = answer.expect("an answer");
        let error = value.extract_error().expect_err("an error");
        error.into()
    }

    #[test]
    fn each_answer_is_known_by_its_code() {
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
            assert_eq!(answered(line).problem(), problem, "{line}");
        }
    }

    #[test]
    fn the_words_are_for_people_and_name_the_code() {
        assert_eq!(
            answered("OOM command not allowed").to_string(),
            "it has reached its maxmemory and refuses writes (OOM)"
        );
        assert!(answered("WRONGPASS x").is_denied());
    }
}
