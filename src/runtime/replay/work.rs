//! Input, limits and progress reports of a replay.

use std::{collections::BTreeMap, future::Future, io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{error::ReplayError, part::Part};

/// Counts of a replay so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub applied: u64,
    /// Ignored records by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Rejected records by code.
    pub rejected: BTreeMap<String, u64>,
}

/// Receives the progress of a replay.
pub trait Watch: Send + Sync {
    /// Called after each batch, and once the part is done. An error ends the replay.
    fn advanced(&mut self, part: &Part, tally: &Tally) -> io::Result<()>;

    /// Returns true if a record is already dead-lettered.
    ///
    /// # Errors
    /// If the disk cannot be read.
    fn is_dead_lettered(&self, partition: i32, offset: i64) -> io::Result<bool>;
}

/// Limits of a replay.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Maximum time that a sink may fail without a success.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// A record to replay, with its original position, read from a place other than the
/// log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRecord {
    /// Id of the record in that place.
    pub id: (i32, i64),
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Provides records to replay, in batches that fit into memory.
pub trait Batches: Send {
    /// Returns the next batch, in any order, or `None` at the end.
    fn next(
        &mut self,
    ) -> impl Future<Output = Result<Option<Vec<ReplayRecord>>, ReplayError>> + Send;

    /// Called if the sink rejects the record with this id again.
    fn rejected(&mut self, id: (i32, i64));
}
