//! What an error of ClickHouse's, or of the log's, means for a batch.

use std::borrow::Borrow;

use crate::{
    connections::clickhouse::{ClickHouseError, exception_code},
    kafka::KafkaError,
    runtime::Fault,
};

/// Codes of ClickHouse's that no repetition mends: what is wrong is a table, a
/// type, or who we are. All others are retried, those of a server without
/// memory (241) or disk (243), or with too many parts (252), among them.
const HALTING: [(u32, &str); 18] = [
    (16, "no_such_column"),
    (20, "column_count"),
    (36, "bad_arguments"),
    (44, "illegal_column"),
    (47, "unknown_identifier"),
    (50, "unknown_type"),
    (53, "type_mismatch"),
    (60, "unknown_table"),
    (62, "syntax_error"),
    (80, "incorrect_query"),
    (81, "unknown_database"),
    (115, "unknown_setting"),
    (164, "read_only"),
    (192, "unknown_user"),
    (452, "setting_fixed"),
    (469, "violated_constraint"),
    (497, "access_denied"),
    (516, "authentication_failed"),
];

/// Codes of what took on too much: for less of it, it may work.
const TOO_SLOW: [u32; 3] = [
    159, // timeout exceeded
    160, // too slow
    241, // memory limit exceeded
];

/// A fault of the log's, seen from a sink: the broker is away.
pub(super) fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

/// A fault of ClickHouse's.
pub(super) fn clickhouse(error: impl Borrow<ClickHouseError>) -> Fault {
    classify(error.borrow())
}

/// Whether the same statement may work for fewer rows.
pub(super) fn is_too_slow(error: &ClickHouseError) -> bool {
    let code = exception_code(error);
    matches!(error, ClickHouseError::TimedOut) || code.is_some_and(|code| TOO_SLOW.contains(&code))
}

/// What ClickHouse's message says where a view on the table threw, whatever the
/// view's own error was.
const VIEW: &str = "while pushing to view";

/// What passes by itself, also in the table that a view writes into: too many
/// queries, no time, no memory, no disk, a read-only table, too many parts.
const PASSING: [u32; 7] = [159, 160, 202, 241, 243, 242, 252];

/// Retry, or halt with a remedy. A batch is never rejected as a whole, nor are
/// its rows: those that ClickHouse could not take are rejected when they are
/// decoded, and what is wrong with a table does not make a record bad.
pub(super) fn classify(error: &ClickHouseError) -> Fault {
    let text = crate::failure::chain(error);
    let code = exception_code(error);
    let known = HALTING.iter().find(|(halting, _)| Some(*halting) == code);
    let passes = code.is_some_and(|code| PASSING.contains(&code));
    let halting = match known {
        _ if text.contains(VIEW) && !passes => Some("view_failed"),
        known => known.map(|(_, name)| *name),
    };
    match (error, halting) {
        (_, Some(name)) => Fault::halt(name, first_line(&text), remedy(name)),
        (ClickHouseError::Unsupported(_) | ClickHouseError::InvalidParams(_), None) => {
            Fault::halt("client", first_line(&text), "fanout config show")
        }
        _ => Fault::retry(format!("clickhouse: {}", first_line(&text))),
    }
}

fn remedy(name: &str) -> &'static str {
    match name {
        "unknown_table" | "unknown_database" => "fanout up, which creates the tables",
        "authentication_failed" | "unknown_user" => {
            "set clickhouse.url or FANOUT_CLICKHOUSE_URL to the right user and password"
        }
        "access_denied" | "read_only" => {
            "grant the user of clickhouse.url what the error names, or name another user"
        }
        "setting_fixed" | "unknown_setting" => {
            "let the user of clickhouse.url change the setting that the error names"
        }
        "violated_constraint" => {
            "drop the constraint that the error names: ALTER TABLE … DROP CONSTRAINT …"
        }
        "view_failed" => "repair or drop the view that the error names",
        _ => "compare the table with sql/clickhouse, then fanout up",
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad_response(text: &str) -> Fault {
        classify(&ClickHouseError::BadResponse(text.to_owned()))
    }

    #[test]
    fn a_missing_table_halts_with_its_remedy() {
        let fault = bad_response("Code: 60. DB::Exception: Table x does not exist");
        assert!(
            matches!(&fault, Fault::Halt(halt) if halt.code == "unknown_table"),
            "{fault:?}"
        );
    }

    #[test]
    fn what_no_repetition_mends_halts_and_is_named() {
        for (text, expected) in [
            (
                "Code: 469. DB::Exception: Constraint `k` for table a.t is violated",
                "violated_constraint",
            ),
            (
                "Code: 395. DB::Exception: no: while executing 'FUNCTION throwIf': \
                 while pushing to view a.v (1234)",
                "view_failed",
            ),
            (
                "Code: 60. DB::Exception: Table a.u does not exist: while pushing to view a.v",
                "view_failed",
            ),
            (
                "Code: 497. DB::Exception: Not enough privileges",
                "access_denied",
            ),
            ("Code: 164. DB::Exception: Cannot modify", "read_only"),
            (
                "Code: 452. DB::Exception: Setting async_insert",
                "setting_fixed",
            ),
        ] {
            let fault = bad_response(text);
            assert!(
                matches!(&fault, Fault::Halt(halt) if halt.code == expected),
                "{text}: {fault:?}"
            );
        }
    }

    #[test]
    fn what_took_too_long_is_told_from_what_failed() {
        let of = |text: &str| is_too_slow(&ClickHouseError::BadResponse(text.to_owned()));
        assert!(of(
            "Code: 159. DB::Exception: Timeout exceeded: elapsed 60 s"
        ));
        assert!(of("Code: 241. DB::Exception: Memory limit exceeded"));
        assert!(is_too_slow(&ClickHouseError::TimedOut));
        assert!(!of("Code: 252. DB::Exception: Too many parts"));
    }

    #[test]
    fn trouble_that_passes_is_retried() {
        for text in [
            "Code: 241. DB::Exception: Memory limit",
            "Code: 252. too many parts",
            "Code: 243. DB::Exception: Cannot reserve 5.10 MiB, not enough space",
            "Code: 252. DB::Exception: Too many parts: while pushing to view a.v",
            "Code: 75. DB::Exception: Cannot write to file: No space left on device",
            "502",
        ] {
            assert!(matches!(bad_response(text), Fault::Retry { .. }), "{text}");
        }
        assert!(matches!(
            classify(&ClickHouseError::TimedOut),
            Fault::Retry { .. }
        ));
    }
}
