//! The interface to a store of enriched rows. The comparison with Postgres and the
//! walk of the log are written against it, so they know no store's client.

use futures_util::{future::LocalBoxFuture, stream::LocalBoxStream};

use super::{
    error::VerifyError,
    row::{RangeSum, RowOrigin, TextRow},
};
use crate::sink_kind::SinkKind;

/// The answer to one question.
pub(crate) type Answer<'a, T> = LocalBoxFuture<'a, Result<T, VerifyError>>;

/// A long answer, in pieces: one row at a time would cost more than it takes to
/// compare the row.
pub(crate) type Pieces<'a, T> = LocalBoxStream<'a, Result<Vec<T>, VerifyError>>;

/// A sink that stores the enriched rows and can be asked for them.
pub(crate) trait RowStore {
    /// The sink, whose dead letters excuse differences of the store.
    fn sink(&self) -> SinkKind;

    /// Returns the sum of the visible rows from one id to another, both included.
    fn sum(&self, first: i64, last: i64) -> Answer<'_, RangeSum>;

    /// Reads the visible rows from one id to another, both included, in the order
    /// of their ids.
    fn rows(&self, first: i64, last: i64) -> Result<Pieces<'_, TextRow>, VerifyError>;

    /// Returns the visible rows that have these ids, in the order of their ids.
    fn rows_of<'a>(&'a self, ids: &'a [i64]) -> Answer<'a, Vec<TextRow>>;

    /// Reads the origins of all rows of a partition, including deleted rows, in any
    /// order.
    fn origins(&self, partition: i32) -> Result<Pieces<'_, RowOrigin>, VerifyError>;

    /// Returns the origins of the rows that have these ids, including deleted rows,
    /// in any order.
    fn origins_of<'a>(&'a self, ids: &'a [i64]) -> Answer<'a, Vec<RowOrigin>>;

    /// Returns what an earlier release recorded in the store, where generations are
    /// kept in the state topic today: for each incarnation of the events' topic,
    /// oldest first, the offsets by partition that it begins at.
    fn recorded_starts(&self) -> Answer<'_, Vec<Vec<i64>>>;
}
