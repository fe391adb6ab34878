//! What a replay works on, within which bounds, and what it tells of it.

use std::{collections::BTreeMap, future::Future, io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{error::ReplayError, part::Part};

/// What a replay has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub ignored: BTreeMap<String, u64>,
    /// By code.
    pub rejected: BTreeMap<String, u64>,
}

/// Told after each batch, and when a part is done.
pub trait Watch: Send + Sync {
    /// What has been stored of a part. An error ends the replay.
    fn advanced(&mut self, part: &Part, tally: &Tally) -> io::Result<()>;

    /// Whether a record is among the dead letters already.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn is_dead_lettered(&self, partition: i32, offset: i64) -> io::Result<bool>;
}

/// What bounds a replay besides its parts.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long a sink may refuse without a success.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// A record by its bytes and its place, wherever it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What whoever kept it knows it by.
    pub id: (i32, i64),
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Where kept records come from, a batch that fits into memory at a time.
pub trait Batches: Send {
    /// The next batch, in any order; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Kept>>, ReplayError>> + Send;

    /// The sink still rejects the record that is known by this.
    fn rejected(&mut self, id: (i32, i64));
}
