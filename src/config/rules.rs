//! Rules for configurations that the types cannot express: known names, and numbers that must
//! not be 0.

use super::{Settings, error::refused};
use crate::failure::Error;

/// Checks the rules.
///
/// # Errors
/// The first rule that is violated.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    let rule =
        |key: &str, problem: String| Err(refused("config_value", format!("{key}: {problem}")));
    if let Some(unknown) = settings.pipeline.sinks.unknown() {
        return rule("pipeline.sinks", unknown.to_string());
    }
    if let Some((key, _)) = positive(settings).iter().find(|(_, value)| *value == 0) {
        return rule(key, "must be at least 1".to_owned());
    }
    let limits = bounded(settings);
    match limits.iter().find(|(_, value, max)| value > max) {
        Some((key, _, max)) => rule(key, format!("must be at most {max}")),
        None => Ok(()),
    }
}

/// Returns limits with their values and their largest allowed values.
fn bounded(settings: &Settings) -> [(&'static str, u64, u64); 6] {
    /// Converted to bytes, this value still fits into an `i64`.
    const MAX_MIB: u64 = 1 << 40;
    let limits = &settings.limits;
    [
        ("limits.log_file_mib", limits.log_file_mib, 65_536),
        ("limits.log_files", limits.log_files.into(), 999),
        // The type is `integer` in Postgres.
        ("limits.slot_wal_mib", limits.slot_wal_mib, 2_147_483_647),
        ("limits.partition_mib", limits.partition_mib, MAX_MIB),
        ("limits.redis_mib", limits.redis_mib, MAX_MIB),
        ("limits.stub_mib", limits.stub_mib, MAX_MIB),
    ]
}

/// Returns the settings that must not be 0.
fn positive(settings: &Settings) -> [(&'static str, u64); 26] {
    let Settings {
        board,
        clickhouse,
        external,
        kafka,
        limits,
        pipeline,
        redis,
        ..
    } = settings;
    [
        ("board.window_seconds", board.window_seconds),
        ("board.publish_interval_ms", board.publish_interval_ms),
        (
            "board.replace_interval_seconds",
            board.replace_interval_seconds,
        ),
        ("board.lease_ms", board.lease_ms),
        ("clickhouse.batch_rows", clickhouse.batch_rows as u64),
        ("clickhouse.batch_bytes", clickhouse.batch_bytes as u64),
        ("clickhouse.reenrich_rows", clickhouse.reenrich_rows as u64),
        (
            "clickhouse.request_timeout_ms",
            clickhouse.request_timeout_ms,
        ),
        ("external.max_in_flight", external.max_in_flight as u64),
        ("external.request_timeout_ms", external.request_timeout_ms),
        (
            "external.max_rejects_in_a_row",
            u64::from(external.max_rejects_in_a_row),
        ),
        (
            "external.max_retry_after_seconds",
            external.max_retry_after_seconds,
        ),
        ("kafka.prefetch_kbytes", kafka.prefetch_kbytes.into()),
        ("kafka.replication_factor", kafka.replication_factor.into()),
        ("kafka.session_timeout_ms", kafka.session_timeout_ms.into()),
        ("limits.log_file_mib", limits.log_file_mib),
        ("limits.log_files", limits.log_files.into()),
        ("limits.slot_wal_mib", limits.slot_wal_mib),
        ("limits.partition_mib", limits.partition_mib),
        ("limits.redis_mib", limits.redis_mib),
        ("limits.stub_events", limits.stub_events),
        ("limits.stub_mib", limits.stub_mib),
        ("pipeline.retry_base_ms", pipeline.retry_base_ms),
        ("pipeline.retry_max_ms", pipeline.retry_max_ms),
        ("pipeline.shutdown_timeout_ms", pipeline.shutdown_timeout_ms),
        ("redis.request_timeout_ms", redis.request_timeout_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_timeout_of_0_is_not() {
        assert!(check(&Settings::default()).is_ok());
        let mut settings = Settings::default();
        settings.redis.request_timeout_ms = 0;
        let error = check(&settings).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "redis.request_timeout_ms: must be at least 1"
        );
    }

    #[test]
    fn a_limit_has_a_maximum() {
        let mut settings = Settings::default();
        settings.limits.log_files = 999;
        settings.limits.slot_wal_mib = 2_147_483_647;
        settings.limits.redis_mib = 1 << 40;
        assert!(check(&settings).is_ok());
        settings.limits.redis_mib += 1;
        let error = check(&settings).expect_err("refused");
        let text = error.to_string();
        assert_eq!(text, "limits.redis_mib: must be at most 1099511627776");
        settings.limits.log_files = 1_000;
        let error = check(&settings).expect_err("refused");
        let text = error.to_string();
        assert_eq!(text, "limits.log_files: must be at most 999");
    }
}
