//! What is wrong with the source, in a form that programs can tell apart and
//! people can act on.

use serde::{Deserialize, Serialize};

use super::AlteredColumn;

/// What exactly is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    PostgresVersion,
    WalLevel,
    DomainOverEnum,
    TableMissing,
    /// A partitioned or foreign table, a view, or whatever else has its name.
    TableKind,
    /// A partition of another table.
    TablePartition,
    TableInherits,
    TableUnlogged,
    RowSecurity,
    PrimaryKey,
    PrimaryKeyDeferrable,
    ColumnMissing,
    ColumnType,
    ColumnGenerated,
    ColumnNullable,
    ReplicaIdentity,
    HelperMissing,
    PublicationMissing,
    PublicationOperations,
    PublicationTable,
    PublicationRowFilter,
    PublicationColumns,
    /// It publishes a table whose rows would be taken for those of another.
    PublicationStray,
    SlotMissing,
    SlotLost,
    ConnectorConfig,
    /// The connector has begun again with a snapshot.
    SnapshotRepeated,
    SourceChanged,
    /// Of a newer fanout.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// As it is written in documents.
    #[must_use]
    pub fn name(self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        json.as_str().unwrap_or_default().to_owned()
    }

    /// It is about a column in use: records will not have what they should.
    #[must_use]
    pub fn is_of_a_column(self) -> bool {
        matches!(
            self,
            Self::ColumnMissing | Self::ColumnType | Self::ColumnGenerated
        )
    }
}

/// How bad a finding is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The source has a shape that cannot be followed. Sinks that rely on it
    /// halt, `up` refuses it.
    Unsupported,
    /// Changes are being lost now. `up` repairs it.
    Incomplete,
    /// Changes were, or may have been, lost earlier: reconcile.
    Unreconciled,
    /// Nothing is lost, and something will not work.
    Impaired,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    /// The table concerned, `public.content`; none concerns all of them.
    pub table: Option<String>,
    /// The column concerned, where it is one.
    pub column: Option<String>,
    /// One sentence without its full stop.
    pub what: String,
    /// The next command to type, or what to change.
    pub remedy: String,
}

impl Finding {
    /// A finding about the source as a whole.
    #[must_use]
    pub fn new(
        code: Code,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity,
            table: None,
            column: None,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The same about one table, by its qualified name.
    #[must_use]
    pub fn of_table(self, table: impl Into<String>) -> Self {
        Self {
            table: Some(table.into()),
            ..self
        }
    }

    /// The same about one of its columns.
    #[must_use]
    pub fn of_column(self, column: impl Into<String>) -> Self {
        Self {
            column: Some(column.into()),
            ..self
        }
    }
}

/// What is known of the source at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// When Postgres last answered, milliseconds since the epoch; none where it
    /// never did.
    pub looked_at_ms: Option<i64>,
    /// Why the latest look saw less than it should have: the findings are those
    /// of an earlier one, or not all.
    pub problem: Option<String>,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// The columns in use that were altered since history was last known to be
    /// complete: no fault, and a reason for records of another shape.
    #[serde(skip)]
    pub altered: Vec<AlteredColumn>,
}

impl Standing {
    /// Whether changes are being lost, or cannot be followed, right now.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let broken = |one: &Finding| one.severity <= Severity::Incomplete;
        self.findings.iter().any(broken)
    }
}
