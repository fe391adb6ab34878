//! Crash points: places where a test has the process killed, as a power cut
//! would end it, to see that nothing is lost or doubled. They are there with
//! the feature `crash-points` alone; without it a point is an empty function,
//! and nothing of this is in the binary.
//!
//! `FANOUT_CRASH_AT=http.sent` kills it where that point is passed first,
//! `http.sent:3` where it is passed the third time.

#[cfg(feature = "crash-points")]
pub use armed::POINTS;

/// The process passes a point of this name: who, and which step of it.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_who: &str, _step: &str) {}

#[cfg(feature = "crash-points")]
pub use armed::point;

#[cfg(feature = "crash-points")]
mod armed {
    use std::{
        process,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    /// Who passes points, and which, in the order in which they come.
    pub const POINTS: [(&str, &[&str]); 8] = [
        (
            "clickhouse",
            &[
                "claimed",
                "polled",
                "decoded",
                "sent",
                "acknowledged",
                "letters_sent",
                "looked_up",
                "re_enriching",
                "re_enriched",
                "committing",
                "committed",
                "committing_metadata",
                "committed_metadata",
                "revoked",
                "draining",
                "drained",
                "leaving",
            ],
        ),
        (
            "content",
            &[
                "claimed",
                "polled",
                "decoded",
                "sent",
                "acknowledged",
                "letters_sent",
                "committing",
                "committed",
                "revoked",
                "draining",
                "drained",
                "leaving",
            ],
        ),
        (
            "http",
            &[
                "claimed",
                "polled",
                "decoded",
                "sent",
                "acknowledged",
                "letters_sent",
                "committing",
                "committed",
                "revoked",
                "draining",
                "drained",
                "leaving",
            ],
        ),
        (
            "redis",
            &[
                "leased",
                "rebuilding",
                "rebuilt",
                "polled",
                "decoded",
                "applied",
                "letters_sent",
                "publishing",
                "published",
                "committing",
                "committed",
                "leaving",
            ],
        ),
        (
            "backfill",
            &[
                "planned",
                // From the log.
                "delivered",
                "letters_sent",
                "settled",
                "keeping",
                "kept",
                "lease_taken_away",
                "forgetting",
                // From the source.
                "lives_begun",
                "lives_kept",
                "signal_kept",
                "signal_sent",
                "snapshot_read",
                "caught_up",
                "pruning",
                "pruned",
                "settling",
                "mended",
            ],
        ),
        (
            "connector",
            &["announced", "stopped", "configured", "resumed"],
        ),
        ("dlq", &["applied", "purging", "purged"]),
        (
            "reset",
            &[
                "listed",
                "connector_removed",
                "stopped",
                "object_removed",
                "objects_removed",
                "emptied",
            ],
        ),
    ];

    /// Variable that says where to crash.
    const VARIABLE: &str = "FANOUT_CRASH_AT";

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let armed = Armed::read(&std::env::var(VARIABLE).ok()?);
        if !is_listed(&armed.who, &armed.step) {
            crash(&armed.who, &armed.step, "is no crash point");
        }
        Some(armed)
    });

    struct Armed {
        who: String,
        step: String,
        /// Passings left until it crashes.
        left: AtomicU64,
    }

    impl Armed {
        fn read(text: &str) -> Self {
            let (name, passing) = text.split_once(':').unwrap_or((text, "1"));
            let (who, step) = name.split_once('.').unwrap_or((name, ""));
            Self {
                who: who.to_owned(),
                step: step.to_owned(),
                left: AtomicU64::new(passing.parse().unwrap_or(1)),
            }
        }

        /// Whether this is the passing that it crashes at.
        fn is_due(&self, who: &str, step: &str) -> bool {
            who == self.who && step == self.step && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    /// Whether a point of this name is one of [`POINTS`].
    fn is_listed(who: &str, step: &str) -> bool {
        POINTS
            .iter()
            .any(|(name, steps)| *name == who && steps.contains(&step))
    }

    /// The process passes a point of this name: who, and which step of it.
    pub fn point(who: &str, step: &str) {
        let Some(armed) = ARMED.as_ref() else { return };
        if !is_listed(who, step) {
            crash(who, step, "is not among the crash points");
        }
        if armed.is_due(who, step) {
            crash(who, step, "crashes the process");
        }
    }

    fn crash(who: &str, step: &str, why: &str) -> ! {
        tracing::error!("crash point {who}.{step} {why}");
        // Like a power cut, and without the core dump of an abort.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        process::abort()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_passing_that_was_asked_for_is_the_one() {
            let armed = Armed::read("http.sent:3");
            let passings = [
                ("http", "sent"),
                ("http", "polled"),
                ("redis", "sent"),
                ("http", "sent"),
                ("http", "sent"),
                ("http", "sent"),
            ];
            let due = passings.map(|(who, step)| armed.is_due(who, step));
            assert_eq!(due, [false, false, false, false, true, false]);
            let first = Armed::read("redis.leased");
            assert!(first.is_due("redis", "leased") && !first.is_due("redis", "leased"));
        }

        #[test]
        fn each_point_is_listed_once() {
            let names = POINTS
                .iter()
                .flat_map(|(who, steps)| steps.iter().map(move |step| (*who, *step)));
            let mut names: Vec<_> = names.collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
            assert!(names.iter().all(|(who, step)| is_listed(who, step)));
            assert!(!is_listed("http", "nowhere"));
        }
    }
}
