//! Checks the schema of the tables. With a wrong engine, replaced rows would remain; with
//! a wrong column, values would be stored incorrectly.

use super::{CONTENT, FACTS, Shape, Store, TOPICS, classify::clickhouse};
use crate::runtime::{Fault, RECONCILE};

/// Expected schema of a table.
struct Expected {
    table: &'static str,
    engine: &'static str,
    sorting_key: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const EXPECTED: [Expected; 3] = [
    Expected {
        table: FACTS,
        engine: "ReplacingMergeTree(_version, _deleted)",
        sorting_key: "event_id",
        columns: &[
            ("event_id", "Int64"),
            ("content_id", "Nullable(UUID)"),
            ("user_id", "Nullable(UUID)"),
            ("event_type", "Nullable(String)"),
            ("event_ts", "DateTime64(6, 'UTC')"),
            ("duration_ms", "Nullable(Int32)"),
            ("engagement_seconds", "Nullable(Decimal(13, 3))"),
            ("engagement_pct", "Nullable(Decimal(12, 2))"),
            ("device", "Nullable(String)"),
            ("raw_payload", "Nullable(String)"),
            ("content_type", "Nullable(String)"),
            ("length_seconds", "Nullable(Int32)"),
            ("processed_at", "DateTime64(3, 'UTC')"),
            ("_version", "UInt128"),
            ("_deleted", "UInt8"),
            ("_partition", "Int32"),
            ("_offset", "Int64"),
            ("_content_offset", "UInt64"),
            ("_record_ts", "DateTime64(3, 'UTC')"),
        ],
    },
    Expected {
        table: CONTENT,
        engine: "ReplacingMergeTree(_version, _deleted)",
        sorting_key: "id",
        columns: &[
            ("id", "UUID"),
            ("title", "String"),
            ("content_type", "LowCardinality(Nullable(String))"),
            ("length_seconds", "Nullable(Int32)"),
            ("processed_at", "DateTime64(3, 'UTC')"),
            ("_version", "UInt64"),
            ("_deleted", "UInt8"),
        ],
    },
    Expected {
        table: TOPICS,
        engine: "ReplacingMergeTree",
        sorting_key: "topic, generation, topic_id, partitions",
        columns: &[
            ("topic", "String"),
            ("topic_id", "UUID"),
            ("partitions", "Int32"),
            ("generation", "UInt16"),
            ("first_seen", "DateTime64(3, 'UTC')"),
            ("format", "UInt16"),
            ("starts", "Array(Int64)"),
            ("settled", "UInt8"),
            ("table_id", "UUID"),
            ("truncated", "String"),
        ],
    },
];

/// Halts unless every table exists with the expected schema.
pub(super) async fn check(store: &Store) -> Result<(), Fault> {
    for expected in &EXPECTED {
        let shape = store.shape(expected.table).await.map_err(clickhouse)?;
        if let Some(difference) = difference(expected, shape.as_ref()) {
            return Err(Fault::halt(
                "wrong_schema",
                format!("table {}: {difference}", expected.table),
                format!("{RECONCILE}, which moves the table aside and recreates it"),
            ));
        }
    }
    Ok(())
}

/// Returns the existing tables with another schema.
pub(super) async fn wrong(store: &Store) -> Result<Vec<&'static str>, Fault> {
    let mut wrong = Vec::new();
    for expected in &EXPECTED {
        let shape = store.shape(expected.table).await.map_err(clickhouse)?;
        if shape.is_some() && difference(expected, shape.as_ref()).is_some() {
            wrong.push(expected.table);
        }
    }
    Ok(wrong)
}

/// Describes the first difference from the expected schema, if there is one.
fn difference(expected: &Expected, shape: Option<&Shape>) -> Option<String> {
    let Some(shape) = shape else {
        return Some("does not exist".to_owned());
    };
    // Replicated and shared variants of an engine use the same rules for merges.
    let family = expected.engine.split('(').next().unwrap_or_default();
    let arguments = expected.engine.strip_prefix(family).unwrap_or_default();
    let arguments = arguments.trim_matches(['(', ')']);
    let engine = shape.engine.split(" ORDER BY").next().unwrap_or_default();
    if !engine.contains(family) || !engine.contains(arguments) {
        return Some(format!("its engine is {engine}, not {}", expected.engine));
    }
    if shape.sorting_key != expected.sorting_key {
        return Some(format!(
            "it is ordered by ({}), not ({})",
            shape.sorting_key, expected.sorting_key
        ));
    }
    expected.columns.iter().find_map(|(name, kind)| {
        match shape.columns.iter().find(|(found, _)| found == name) {
            None => Some(format!("column {name} is missing")),
            Some((_, found)) if found != kind => {
                Some(format!("column {name} is {found}, not {kind}"))
            }
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let expected = &EXPECTED[0];
        Shape {
            engine: "ReplacingMergeTree(_version, _deleted) ORDER BY event_id SETTINGS x = 1"
                .to_owned(),
            sorting_key: "event_id".to_owned(),
            columns: expected
                .columns
                .iter()
                .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn the_expected_schema_has_no_difference() {
        assert_eq!(difference(&EXPECTED[0], Some(&shape())), None);
    }

    #[test]
    fn each_kind_of_difference_is_described() {
        let expected = &EXPECTED[0];
        assert_eq!(
            difference(expected, None).as_deref(),
            Some("does not exist")
        );
        let mut wrong = shape();
        wrong.engine = "MergeTree ORDER BY event_id".to_owned();
        assert!(difference(expected, Some(&wrong)).is_some_and(|d| d.contains("engine")));
        let mut wrong = shape();
        wrong.sorting_key = "content_id".to_owned();
        assert!(difference(expected, Some(&wrong)).is_some_and(|d| d.contains("ordered")));
        let mut wrong = shape();
        wrong.columns[4].1 = "DateTime64(3)".to_owned();
        assert!(difference(expected, Some(&wrong)).is_some_and(|d| d.contains("event_ts")));
        let mut wrong = shape();
        wrong.columns.remove(3);
        assert!(difference(expected, Some(&wrong)).is_some_and(|d| d.contains("event_type")));
    }
}
