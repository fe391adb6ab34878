//! Classifies errors of ClickHouse and Kafka: retry the batch, or halt the sink.

use std::borrow::Borrow;

use crate::{
    connections::clickhouse::{ClickHouseError, exception_code},
    kafka::KafkaError,
    runtime::Fault,
};

/// Exception codes of ClickHouse that a retry cannot solve: the table, a type or the
/// credentials are wrong. All others are retried, for example if the server lacks memory
/// (241) or disk space (243), or has too many parts (252).
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

/// Exception codes of statements that may succeed with fewer rows.
const TOO_SLOW: [u32; 3] = [
    159, // timeout exceeded
    160, // too slow
    241, // memory limit exceeded
];

/// Returns the fault for an error of Kafka.
pub(super) fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

/// Returns the fault for an error of ClickHouse.
pub(super) fn clickhouse(error: impl Borrow<ClickHouseError>) -> Fault {
    classify(error.borrow())
}

/// Returns true if the statement may succeed with fewer rows.
pub(super) fn is_too_slow(error: &ClickHouseError) -> bool {
    let code = exception_code(error);
    matches!(error, ClickHouseError::TimedOut) || code.is_some_and(|code| TOO_SLOW.contains(&code))
}

/// Part of ClickHouse's message if a view on the table failed, with any error.
const VIEW_ERROR: &str = "while pushing to view";

/// Exception codes of transient errors, which may also come from the table that a view
/// writes to: too many queries, timeout, no memory, no disk space, read-only table, too
/// many parts.
const TRANSIENT: [u32; 7] = [159, 160, 202, 241, 243, 242, 252];

/// Classifies an error: retry, or halt with a remedy. Neither a batch nor its rows are
/// rejected: rows that ClickHouse cannot store are rejected when they are decoded, and a
/// wrong table does not make a record invalid.
pub(super) fn classify(error: &ClickHouseError) -> Fault {
    let text = crate::failure::chain(error);
    let code = exception_code(error);
    let halting = HALTING.iter().find(|(halting, _)| Some(*halting) == code);
    let is_transient = code.is_some_and(|code| TRANSIENT.contains(&code));
    let halt_code = if text.contains(VIEW_ERROR) && !is_transient {
        Some("view_failed")
    } else {
        halting.map(|(_, name)| *name)
    };
    match (error, halt_code) {
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
            "correct the user and password in clickhouse.url or FANOUT_CLICKHOUSE_URL"
        }
        "access_denied" | "read_only" => {
            "grant the user of clickhouse.url the missing permission, or set another user"
        }
        "setting_fixed" | "unknown_setting" => {
            "allow the user of clickhouse.url to change the setting in the error message"
        }
        "violated_constraint" => {
            "drop the constraint in the error message: ALTER TABLE … DROP CONSTRAINT …"
        }
        "view_failed" => "repair or drop the view in the error message",
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
    fn errors_that_a_retry_cannot_solve_halt_with_their_code() {
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
    fn slow_statements_are_distinguished_from_failed_ones() {
        let is_slow = |text: &str| is_too_slow(&ClickHouseError::BadResponse(text.to_owned()));
        assert!(is_slow(
            "Code: 159. DB::Exception: Timeout exceeded: elapsed 60 s"
        ));
        assert!(is_slow("Code: 241. DB::Exception: Memory limit exceeded"));
        assert!(is_too_slow(&ClickHouseError::TimedOut));
        assert!(!is_slow("Code: 252. DB::Exception: Too many parts"));
    }

    #[test]
    fn transient_errors_are_retried() {
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
