//! The domain of the demo pipeline: its tables, the formulas of its join, and the keys and
//! versions of its rows.

pub(crate) mod content;
pub mod enrichment;
pub(crate) mod event;
pub mod idempotency;
pub mod version;
