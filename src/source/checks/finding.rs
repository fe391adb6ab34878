//! Problems of the source, in a form that programs can distinguish and people can act on.

use serde::{Deserialize, Serialize};

use super::AlteredColumn;

/// The kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    PostgresVersion,
    WalLevel,
    DomainOverEnum,
    TableMissing,
    /// A partitioned or foreign table, a view, or another kind of relation.
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
    /// The publication includes a table whose rows would be recorded as those of another.
    PublicationStray,
    SlotMissing,
    SlotLost,
    ConnectorConfig,
    /// The connector started over with a snapshot.
    SnapshotRepeated,
    SourceChanged,
    /// A code of a newer version of fanout.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// Returns the code as written in documents.
    #[must_use]
    pub fn name(self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        json.as_str().unwrap_or_default().to_owned()
    }

    /// Returns true if the problem is a column in use: records will lack valid values.
    #[must_use]
    pub fn is_column_problem(self) -> bool {
        matches!(
            self,
            Self::ColumnMissing | Self::ColumnType | Self::ColumnGenerated
        )
    }
}

/// Severity of a finding, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The state of the source is not supported. Sinks that depend on it halt, and `up` refuses
    /// it.
    Unsupported,
    /// Changes are being lost now. `up` repairs it.
    Incomplete,
    /// Changes were lost, or may have been lost, earlier. A reconcile is required.
    Unreconciled,
    /// No changes are lost, but something does not work.
    Impaired,
}

/// One problem of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    /// The table concerned, such as `public.content`. `None` means all tables.
    pub table: Option<String>,
    /// The column concerned, if any.
    pub column: Option<String>,
    /// Description: one sentence without its full stop.
    pub what: String,
    /// The command to run next, or the change to make.
    pub remedy: String,
}

impl Finding {
    /// Returns a finding about the source as a whole.
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

    /// Sets the qualified name of the table concerned.
    #[must_use]
    pub fn of_table(self, table: impl Into<String>) -> Self {
        Self {
            table: Some(table.into()),
            ..self
        }
    }

    /// Sets the column concerned.
    #[must_use]
    pub fn of_column(self, column: impl Into<String>) -> Self {
        Self {
            column: Some(column.into()),
            ..self
        }
    }
}

/// Health of the source at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// When Postgres last responded, in milliseconds since the epoch. `None` if it never did.
    pub looked_at_ms: Option<i64>,
    /// Why the latest inspection was incomplete: the findings may be outdated or incomplete.
    pub problem: Option<String>,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Columns in use that were altered since history was last known to be complete. Not a
    /// fault, but an explanation for records with another shape.
    #[serde(skip)]
    pub altered: Vec<AlteredColumn>,
}

impl Standing {
    /// Returns true if changes are currently being lost or cannot be followed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let is_broken = |finding: &Finding| finding.severity <= Severity::Incomplete;
        self.findings.iter().any(is_broken)
    }
}
