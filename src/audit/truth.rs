//! What the sinks are compared with.

use super::{
    context::Context, error::VerifyError, findings::Findings, letters::Letters, log::Walk,
    snapshot::Snapshot, store::RowStore,
};
use crate::runtime::barrier::Fence;

/// What the sinks are compared with.
pub(crate) struct Truth<'a> {
    pub(crate) context: &'a Context<'a>,
    /// Postgres before the barrier. The first comparison of rows takes it, because
    /// an open snapshot holds up vacuuming.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) letters: &'a Letters,
    /// The log up to the barrier.
    pub(crate) log: Walk<'a>,
}

impl<'a> Truth<'a> {
    /// Nothing is read before an audit asks for it. `stores` are the stores of all
    /// sinks. Only they are compared with the snapshot.
    pub(crate) fn new(
        context: &'a Context<'a>,
        snapshot: Snapshot,
        fence: &'a Fence,
        letters: &'a Letters,
        stores: Vec<&'a dyn RowStore>,
    ) -> Self {
        Self {
            context,
            snapshot: (!stores.is_empty()).then_some(snapshot),
            letters,
            log: Walk::new(context, fence, letters, stores),
        }
    }

    /// Returns what became of the records of the log.
    pub(crate) async fn into_records(self) -> Result<Findings, VerifyError> {
        self.log.into_records().await
    }
}
