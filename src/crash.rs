//! Crash points: places at which a test kills the process, as a power cut would, to check that
//! nothing is lost or duplicated. They exist only with the feature `crash-points`. Without it a
//! point is an empty function, and none of this is in the binary.
//!
//! `FANOUT_CRASH_AT=http.sent` kills the process when it first passes that point, `http.sent:3`
//! when it passes the point for the third time.

#[cfg(feature = "crash-points")]
pub use armed::POINTS;

/// Marks a crash point, named by a component and one of its steps.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_component: &str, _step: &str) {}

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

    /// The components with their crash points, in the order in which they are passed.
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
                // Points of a backfill from the log.
                "delivered",
                "letters_sent",
                "settled",
                "keeping",
                "kept",
                "lease_taken_away",
                "forgetting",
                // Points of a backfill from the source.
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

    /// Environment variable with the crash point at which to crash.
    const VARIABLE: &str = "FANOUT_CRASH_AT";

    static ARMED: LazyLock<Option<ArmedPoint>> = LazyLock::new(|| {
        let armed = ArmedPoint::read(&std::env::var(VARIABLE).ok()?);
        if !is_listed(&armed.component, &armed.step) {
            crash(&armed.component, &armed.step, "is not a crash point");
        }
        Some(armed)
    });

    struct ArmedPoint {
        component: String,
        step: String,
        /// Number of passes left until the crash.
        left: AtomicU64,
    }

    impl ArmedPoint {
        fn read(text: &str) -> Self {
            let (name, pass) = text.split_once(':').unwrap_or((text, "1"));
            let (component, step) = name.split_once('.').unwrap_or((name, ""));
            Self {
                component: component.to_owned(),
                step: step.to_owned(),
                left: AtomicU64::new(pass.parse().unwrap_or(1)),
            }
        }

        /// Returns true if the process must crash at this pass.
        fn is_due(&self, component: &str, step: &str) -> bool {
            component == self.component
                && step == self.step
                && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    /// Returns true if [`POINTS`] contains this point.
    fn is_listed(component: &str, step: &str) -> bool {
        POINTS
            .iter()
            .any(|(name, steps)| *name == component && steps.contains(&step))
    }

    /// Marks a crash point, named by a component and one of its steps.
    pub fn point(component: &str, step: &str) {
        let Some(armed) = ARMED.as_ref() else { return };
        if !is_listed(component, step) {
            crash(component, step, "is not a listed crash point");
        }
        if armed.is_due(component, step) {
            crash(component, step, "crashes the process");
        }
    }

    fn crash(component: &str, step: &str, reason: &str) -> ! {
        tracing::error!("crash point {component}.{step} {reason}");
        // Kills like a power cut, without the core dump of an abort.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        process::abort()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_the_requested_pass_is_due() {
            let armed = ArmedPoint::read("http.sent:3");
            let passes = [
                ("http", "sent"),
                ("http", "polled"),
                ("redis", "sent"),
                ("http", "sent"),
                ("http", "sent"),
                ("http", "sent"),
            ];
            let due = passes.map(|(component, step)| armed.is_due(component, step));
            assert_eq!(due, [false, false, false, false, true, false]);
            let first = ArmedPoint::read("redis.leased");
            assert!(first.is_due("redis", "leased") && !first.is_due("redis", "leased"));
        }

        #[test]
        fn each_point_is_listed_once() {
            let names = POINTS
                .iter()
                .flat_map(|(component, steps)| steps.iter().map(move |step| (*component, *step)));
            let mut names: Vec<_> = names.collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
            assert!(
                names
                    .iter()
                    .all(|(component, step)| is_listed(component, step))
            );
            assert!(!is_listed("http", "nowhere"));
        }
    }
}
