//! What a ClickHouse error means for a batch.

use crate::{clients::clickhouse::ClickHouseError, sinks::Fault};

/// Codes of ClickHouse's that no repetition mends: what is wrong is a table, a
/// type, or who we are.
const HALTING: [(u32, &str); 14] = [
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
    (192, "unknown_user"),
    (497, "access_denied"),
    (516, "authentication_failed"),
];

/// Retry, or halt with a remedy. A batch is never rejected as a whole: rows
/// that ClickHouse could not take are rejected when they are decoded.
pub(super) fn classify(error: &ClickHouseError) -> Fault {
    let text = crate::failure::chain(error);
    let code = code(&text);
    let halting = HALTING.iter().find(|(halting, _)| Some(*halting) == code);
    match (error, halting) {
        (_, Some((_, name))) => Fault::halt(name, first_line(&text), remedy(name)),
        (ClickHouseError::Unsupported(_) | ClickHouseError::InvalidParams(_), None) => {
            Fault::halt("client", first_line(&text), "fanout config show")
        }
        _ => Fault::retry(format!("clickhouse: {}", first_line(&text))),
    }
}

fn remedy(name: &str) -> &'static str {
    match name {
        "unknown_table" | "unknown_database" => "fanout up, which creates the tables",
        "access_denied" | "authentication_failed" | "unknown_user" => {
            "set clickhouse.url or FANOUT_CLICKHOUSE_URL to the right user and password"
        }
        _ => "compare the table with sql/clickhouse, then fanout up",
    }
}

/// The number in `Code: 60. DB::Exception: …`.
fn code(text: &str) -> Option<u32> {
    let after = text.split("Code: ").nth(1)?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
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
    fn trouble_that_passes_is_retried() {
        for text in [
            "Code: 241. DB::Exception: Memory limit",
            "Code: 252. too many parts",
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
