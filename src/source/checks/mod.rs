//! The state that Postgres must be in for its changes to reach the sinks exactly, and the
//! problems of a database that is in another state.
//!
//! [`Expected`] describes the required state and [`Catalogue`] the state of a database;
//! [`check`] compares them and returns [`Finding`]s. A [`Fingerprint`] of the catalogue shows
//! whether something was altered in the meantime, even if the alteration was reverted: changes
//! made in between are missing from the log. [`statements`] returns the SQL that repairs or
//! creates the rest.
//!
//! [`crate::connections::postgres`] reads the catalogue. The callers decide when to inspect the
//! source, and how a finding affects a sink.

mod assess;
mod catalogue;
mod connector;
mod expected;
mod finding;
mod fingerprint;
mod judge;
mod record;
mod statement;

pub use assess::{ConnectorState, History, assess, reasons_to_record};
pub use catalogue::{
    Catalogue, Column, Member, NamedMember, PrimaryKey, Publication, Relation, Slot, has_begun,
};
pub use connector::{Properties, drift, relevant};
pub use expected::{Expected, ExpectedColumn, ExpectedTable, HELPERS, SCHEMA, Type};
pub use finding::{Code, Finding, Severity, Standing};
pub use fingerprint::{AlteredColumn, Difference, Fingerprint, altered_columns, differences};
pub use judge::{check, strays};
pub use record::{Baseline, Changed, Reason, RecordError};
pub use statement::{Statement, drop_stray, quoted, statements};

/// Reports every row of the source to the external system again: it cannot be
/// compared with the source.
pub const RESEND: &str = "fanout backfill --from earliest --source database --sinks http";

/// The command that repairs every gap in history.
pub const RECONCILE: &str = "fanout backfill --from earliest --source database --prune";

#[cfg(test)]
mod tests;
