//! Run state, exit reason and health of a container.

use std::fmt;

use bollard::models::{ContainerState, ContainerStateStatusEnum, HealthStatusEnum};

/// Exit code of a process killed by SIGKILL: 128 plus the signal's number.
const KILLED: i64 = 137;

/// Run state of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Created but never started.
    Created,
    Running,
    Exited(ExitReason),
}

/// Reason why a container exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    Code(i64),
    /// Killed by the kernel because it exceeded its memory limit.
    OutOfMemory,
    /// Error message of the engine.
    Message(String),
}

/// Result of a container's health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Healthy, or without a health check.
    Healthy,
    /// The check has not passed yet.
    Starting,
    /// Unhealthy, with the output of the last check.
    Unhealthy(String),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(KILLED) => write!(formatter, "exit code {KILLED}: it was killed"),
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::OutOfMemory => formatter.write_str("killed because it ran out of memory"),
            Self::Message(message) => formatter.write_str(message),
        }
    }
}

pub(super) fn run_state(state: &ContainerState) -> RunState {
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => RunState::Created,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::RESTARTING,
        ) => RunState::Running,
        _ => RunState::Exited(exit_reason(state)),
    }
}

fn exit_reason(state: &ContainerState) -> ExitReason {
    let code = state.exit_code.unwrap_or_default();
    let message = state.error.clone().unwrap_or_default();
    // The engine also sets `oom_killed` if only a child process was killed and
    // the container exited successfully later.
    if state.oom_killed == Some(true) && code != 0 {
        ExitReason::OutOfMemory
    } else if message.is_empty() {
        ExitReason::Code(code)
    } else {
        ExitReason::Message(message)
    }
}

pub(super) fn health(state: &ContainerState) -> Health {
    let Some(health) = &state.health else {
        return Health::Healthy;
    };
    let last = health.log.as_ref().and_then(|log| log.last());
    let message = last
        .and_then(|last| last.output.clone())
        .unwrap_or_default();
    match health.status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy(message.trim().to_owned()),
        _ => Health::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_reason_is_described() {
        let describe = |code, oom_killed, message: &str| {
            let state = ContainerState {
                status: Some(ContainerStateStatusEnum::EXITED),
                exit_code: Some(code),
                oom_killed: Some(oom_killed),
                error: Some(message.to_owned()),
                ..ContainerState::default()
            };
            match run_state(&state) {
                RunState::Exited(exit_reason) => exit_reason.to_string(),
                other => format!("{other:?}"),
            }
        };
        for (code, oom_killed, message, expected) in [
            (1, false, "", "exit code 1"),
            (137, false, "", "exit code 137: it was killed"),
            (137, true, "", "killed because it ran out of memory"),
            (0, true, "", "exit code 0"),
            (128, false, "no such file", "no such file"),
        ] {
            assert_eq!(describe(code, oom_killed, message), expected);
        }
    }
}
