//! What Postgres has to look like so that its changes reach the sinks exactly,
//! and what is wrong where it does not.
//!
//! [`Expected`] says what is needed, [`Catalogue`] what a database has, and
//! [`judge`] compares them into [`Finding`]s. A [`Fingerprint`] of the
//! catalogue tells whether something was altered meanwhile, even where it was
//! altered back: changes made in between are in no log. [`statements`] are
//! what repairs or creates the rest.
//!
//! Reading the catalogue is up to [`crate::clients::postgres`]; when to look,
//! and what a finding does to a sink, is decided above.

mod assess;
mod catalogue;
mod connector;
mod expected;
mod finding;
mod fingerprint;
mod judge;
mod record;
mod statement;

pub use assess::{History, Surroundings, assess, to_remember};
pub use catalogue::{
    Catalogue, Column, Member, NamedMember, PrimaryKey, Publication, Relation, Slot, has_begun,
};
pub use connector::{Properties, drift, relevant};
pub use expected::{Expected, ExpectedColumn, ExpectedTable, HELPERS, SCHEMA, Type};
pub use finding::{Code, Finding, Severity, Standing};
pub use fingerprint::{AlteredColumn, Difference, Fingerprint, altered_columns, differences};
pub use judge::{judge, strays};
pub use record::{Baseline, Changed, Reason, RecordError};
pub use statement::{Statement, drop_stray, quoted, statements};

/// The one remedy for every break in history.
pub const RECONCILE: &str = "fanout backfill --from earliest --source database --prune";

#[cfg(test)]
mod tests;
