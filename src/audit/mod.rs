//! What every sink is held against: the log, the source and what became of each record.

pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod findings;
pub(crate) mod ledger;
pub(crate) mod letters;
pub(crate) mod log;
