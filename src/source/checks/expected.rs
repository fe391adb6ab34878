//! The requirements of the pipeline on the source.

use crate::config;

/// The schema of the source tables.
pub const SCHEMA: &str = "public";

/// Tables that fanout creates for Debezium: the signal table, which requests snapshots, and the
/// table whose row each heartbeat updates.
pub const HELPERS: [&str; 2] = ["debezium_signal", "debezium_heartbeat"];

/// Required state of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub publication: String,
    pub slot: String,
    pub tables: Vec<ExpectedTable>,
}

/// A table whose changes are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTable {
    pub name: String,
    /// The only column of its primary key.
    pub key: String,
    /// Columns in use. The table may have any other columns.
    pub columns: Vec<ExpectedColumn>,
    /// Columns that the queries of fanout select by.
    pub indexed: Vec<String>,
}

/// A column in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedColumn {
    pub name: String,
    pub kind: Type,
    /// Whether a record without a value for this column is rejected.
    pub required: bool,
}

/// Types whose values are all supported. A domain counts as its base type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Uuid,
    /// Only `bigint`, because ids are compared and passed on as 64-bit integers.
    BigInt,
    /// An integer of at most 32 bits.
    Int,
    Text,
    /// Requires the time zone: a `timestamp` without one arrives as a number without a unit.
    Timestamptz,
    Json,
}

impl Type {
    /// Returns the names in `pg_type`.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Uuid => &["uuid"],
            Self::BigInt => &["int8"],
            Self::Int => &["int4", "int2"],
            Self::Text => &["text", "varchar"],
            Self::Timestamptz => &["timestamptz"],
            Self::Json => &["jsonb", "json"],
        }
    }

    /// Returns the name for use in a statement.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::BigInt => "bigint",
            Self::Int => "integer",
            Self::Text => "text",
            Self::Timestamptz => "timestamptz",
            Self::Json => "jsonb",
        }
    }
}

impl Expected {
    /// Returns the requirements of the built-in pipeline: content and its events.
    #[must_use]
    pub fn demo(connector: &config::Connector) -> Self {
        Self {
            publication: connector.publication.clone(),
            slot: connector.slot.clone(),
            tables: vec![content(), engagement_events()],
        }
    }

    /// Returns the names of all required tables, including those for Debezium.
    #[must_use]
    pub fn relations(&self) -> Vec<&str> {
        let tables = self.tables.iter().map(|table| table.name.as_str());
        tables.chain(HELPERS).collect()
    }
}

impl ExpectedTable {
    /// Returns the qualified name, such as `public.content`.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{SCHEMA}.{}", self.name)
    }

    fn new(name: &str, columns: &[(&str, Type)], required: &[&str], indexed: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            key: "id".to_owned(),
            columns: columns
                .iter()
                .map(|(name, kind)| ExpectedColumn {
                    name: (*name).to_owned(),
                    kind: *kind,
                    required: required.contains(name),
                })
                .collect(),
            indexed: indexed.iter().map(|column| (*column).to_owned()).collect(),
        }
    }
}

fn content() -> ExpectedTable {
    let columns = [
        ("id", Type::Uuid),
        ("title", Type::Text),
        ("content_type", Type::Text),
        ("length_seconds", Type::Int),
    ];
    ExpectedTable::new("content", &columns, &[], &[])
}

fn engagement_events() -> ExpectedTable {
    let columns = [
        ("id", Type::BigInt),
        ("content_id", Type::Uuid),
        ("user_id", Type::Uuid),
        ("event_type", Type::Text),
        ("event_ts", Type::Timestamptz),
        ("duration_ms", Type::Int),
        ("device", Type::Text),
        ("raw_payload", Type::Json),
    ];
    ExpectedTable::new(
        "engagement_events",
        &columns,
        &["event_ts"],
        &["event_ts", "content_id"],
    )
}
