//! Sorted sets, buckets and temporary files on disk, for data that may not fit into
//! memory.

pub(crate) mod bucket;
pub mod scratch;
pub(crate) mod sorted;
