//! Compares what the sinks hold with what they must hold. The expected side comes
//! from Postgres and from the log, and dead letters excuse differences.
//!
//! Each sink implements [`Audit`]. A sink that stores the enriched rows also
//! implements [`RowStore`], and shares the comparison of rows and
//! the walk of the log with all other such sinks.

mod compare;
pub(crate) mod context;
mod dimension;
pub(crate) mod error;
pub(crate) mod findings;
pub(crate) mod ledger;
pub(crate) mod letters;
pub(crate) mod log;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod truth;

use findings::{Check, Findings};
use store::{Answer, RowStore};
use truth::Truth;

/// The audit of one sink.
pub(crate) trait Audit {
    /// The check that it makes.
    fn check(&self) -> Check;

    /// Whether the other checks are still made if this one fails. They then say
    /// more than its error, which is reported only if they find no difference.
    fn may_fail(&self) -> bool {
        false
    }

    /// The enriched rows that the sink stores, if it stores them.
    fn store(&self) -> Option<&dyn RowStore> {
        None
    }

    /// Compares what the sink holds with the truth. Everything before the barrier
    /// has reached the sink.
    fn audit<'a>(&'a self, truth: &'a mut Truth<'_>) -> Answer<'a, Findings>;
}
