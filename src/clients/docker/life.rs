//! Whether a container runs, how it ended, and what its health checks say.

use std::fmt;

use bollard::models::{ContainerState, ContainerStateStatusEnum, HealthStatusEnum};

/// The exit code of what was killed: 128 and the signal's number.
const KILLED: i64 = 137;

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Made and never started.
    Created,
    Running,
    Ended(Ending),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Code(i64),
    /// The kernel killed it because it needed more memory than it may have.
    OutOfMemory,
    /// In the engine's words.
    Said(String),
}

/// What the engine thinks of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Well, or nobody asks.
    Good,
    /// Not yet asked often enough.
    Starting,
    /// With what the last check said.
    Bad(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(KILLED) => write!(formatter, "exit code {KILLED}: it was killed"),
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::OutOfMemory => formatter.write_str("killed for want of memory"),
            Self::Said(said) => formatter.write_str(said),
        }
    }
}

pub(super) fn life(state: &ContainerState) -> Life {
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => Life::Created,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::RESTARTING,
        ) => Life::Running,
        _ => Life::Ended(ending(state)),
    }
}

fn ending(state: &ContainerState) -> Ending {
    let code = state.exit_code.unwrap_or_default();
    let said = state.error.clone().unwrap_or_default();
    // The engine says so too of one that outlived the child that was killed,
    // and ended later as it should.
    if state.oom_killed == Some(true) && code != 0 {
        Ending::OutOfMemory
    } else if said.is_empty() {
        Ending::Code(code)
    } else {
        Ending::Said(said)
    }
}

pub(super) fn health(state: &ContainerState) -> Health {
    let Some(health) = &state.health else {
        return Health::Good;
    };
    let last = health.log.as_ref().and_then(|log| log.last());
    let said = last
        .and_then(|last| last.output.clone())
        .unwrap_or_default();
    match health.status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Bad(said.trim().to_owned()),
        _ => Health::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_container_ended_is_told_in_words() {
        let ended = |code, hungry, said: &str| {
            let state = ContainerState {
                status: Some(ContainerStateStatusEnum::EXITED),
                exit_code: Some(code),
                oom_killed: Some(hungry),
                error: Some(said.to_owned()),
                ..ContainerState::default()
            };
            match life(&state) {
                Life::Ended(ending) => ending.to_string(),
                other => format!("{other:?}"),
            }
        };
        for (code, hungry, said, expected) in [
            (1, false, "", "exit code 1"),
            (137, false, "", "exit code 137: it was killed"),
            (137, true, "", "killed for want of memory"),
            (0, true, "", "exit code 0"),
            (128, false, "no such file", "no such file"),
        ] {
            assert_eq!(ended(code, hungry, said), expected);
        }
    }
}
