//! What an operator should know before trusting the board.

use serde::Serialize;

use crate::{
    connections::redis::RedisProblem,
    runtime::status::{SinkState, SinkStatus},
    sinks::inspect::Meta,
};

/// Why the board is empty or not reliable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Stable `snake_case` name.
    pub code: &'static str,
    pub text: String,
    /// Command to run, or setting to change.
    pub hint: Option<String>,
}

impl Remark {
    fn new(code: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    pub(super) fn warming() -> Self {
        let text = "the board is still being rebuilt";
        Self::new("warming", text, "fanout status")
    }

    pub(super) fn ahead_of_clock() -> Self {
        let text =
            "it is ahead of this machine's clock: the worker's clock differs, or was set back";
        Self::new("ahead_of_clock", text, "fanout status")
    }

    pub(super) fn no_events() -> Self {
        Self::new("no_events", "no event in the window", "fanout seed")
    }

    /// Returns a remark if no worker can write to this Redis.
    pub(super) fn of_store(problem: RedisProblem) -> Option<Self> {
        let (code, text, hint) = match problem {
            RedisProblem::ReadOnly => (
                "read_only",
                "redis is a read-only replica, so no worker can publish to it",
                "set redis.url or FANOUT_REDIS_URL to the primary",
            ),
            RedisProblem::OutOfMemory => (
                "out_of_memory",
                "redis has reached its maxmemory, so no worker can publish to it",
                "redis-cli -u \"$FANOUT_REDIS_URL\" config set maxmemory <bytes>",
            ),
            RedisProblem::NotSaving => (
                "not_saving",
                "redis cannot save its data to disk, and may refuse writes for it",
                "fanout logs redis",
            ),
            _ => return None,
        };
        Some(Self::new(code, text, hint))
    }

    /// Returns a remark if the pipeline reports a problem with its board.
    pub(super) fn of_pipeline(sink: &SinkStatus) -> Option<Self> {
        if let Some(halt) = &sink.halt {
            let text = format!("the board's worker has halted: {}", halt.reason);
            return Some(Self::new("halted", text, halt.remedy.clone()));
        }
        let detail = sink.detail.clone().unwrap_or_default();
        (sink.state == SinkState::Retrying).then(|| {
            let text = format!("the board's worker is retrying: {detail}");
            Self::new("retrying", text, "fanout status")
        })
    }

    /// Returns the remark for a board that is not published for no known reason.
    /// `ever` is whether it has been published within the last window.
    pub(super) fn unpublished(ever: bool) -> Self {
        if ever {
            let text = "no worker is publishing; the board is stale";
            Self::new("no_worker", text, "fanout run")
        } else {
            let text = "no pipeline has published it within the last window";
            Self::new("never_published", text, "fanout run")
        }
    }
}

/// Condition of the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// No worker publishes it. `ever` is whether one has within the last window.
    Unpublished {
        ever: bool,
    },
    /// It is still being rebuilt.
    Warming,
    /// Its time is in the future.
    AheadOfClock,
    NoEvents,
}

/// Returns the condition of the board; of several, the most serious one.
pub(super) fn standing(
    meta: Option<Meta>,
    now_us: i64,
    has_worker: bool,
    members: u64,
) -> Standing {
    match meta {
        None => Standing::Unpublished { ever: false },
        Some(_) if !has_worker => Standing::Unpublished { ever: true },
        Some(meta) if !meta.complete => Standing::Warming,
        Some(meta) if meta.is_ahead_of(now_us) => Standing::AheadOfClock,
        Some(_) if members == 0 => Standing::NoEvents,
        Some(_) => Standing::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_says_why_it_is_empty_or_not_to_be_relied_on() {
        let meta = |complete, as_of_us| {
            Some(Meta {
                as_of_us,
                seq: 1,
                complete,
                behind_ms: 0,
                window_seconds: 600,
            })
        };
        let ahead = 1_200_000_000;
        for (meta, has_worker, members, expected) in [
            (None, true, 0, Standing::Unpublished { ever: false }),
            (
                meta(true, 0),
                false,
                3,
                Standing::Unpublished { ever: true },
            ),
            (meta(false, 0), true, 3, Standing::Warming),
            (meta(true, ahead), true, 3, Standing::AheadOfClock),
            (meta(true, 1_000_000), true, 3, Standing::Good),
            (meta(true, 0), true, 0, Standing::NoEvents),
            (meta(true, 0), true, 3, Standing::Good),
        ] {
            assert_eq!(standing(meta, 0, has_worker, members), expected);
        }
    }

    #[test]
    fn a_store_that_takes_no_writes_is_not_a_missing_worker() {
        let code = |problem| Remark::of_store(problem).map(|remark| remark.code);
        assert_eq!(code(RedisProblem::ReadOnly), Some("read_only"));
        assert_eq!(code(RedisProblem::OutOfMemory), Some("out_of_memory"));
        assert_eq!(code(RedisProblem::Other), None);
    }
}
