//! Sorted sets and temporary files on disk, for what need not fit into memory.

pub(crate) mod bucket;
pub mod scratch;
pub(crate) mod sorted;
