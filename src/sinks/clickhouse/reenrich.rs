//! Re-enriches stored rows: looks up the rows whose content has changed, and writes them
//! again. Each statement is bounded, so new events and commits never wait for all rows of
//! a content.
//!
//! The progress of a pass is not stored, because re-enriched rows are no longer found. If
//! a pass ends early, by a crash or because its partition was revoked, the next owner of
//! the partition repeats it and finds only the remaining rows.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{
    catalogue::{Catalogue, ContentOffsets},
    classify::{clickhouse, is_too_slow},
    client::Store,
    pace::{ContentLimit, IdWindow, RowLimit},
    position::position,
    stale::{Enrichment, StaleRow, StaleRows},
};
use crate::{connections::clickhouse::ClickHouseError, crash, runtime::Fault};

/// Number of rows that are looked up before any row is written, as a multiple of a
/// statement's maximum. If many contents have changed, rows are thus written in the order
/// of the table.
const LOOKUP_FACTOR: usize = 10;

/// Admits one re-enrichment pass at a time in this process, in the order of the requests.
#[derive(Debug, Default)]
pub(super) struct PassQueue {
    /// Locked during a pass.
    running: Arc<AsyncMutex<()>>,
    /// The partitions assigned to this process.
    partitions: Mutex<BTreeSet<i32>>,
    /// The waiting partitions in their order, with the time of their last request.
    waiting: Mutex<VecDeque<(i32, Instant)>>,
}

/// A partition that has not repeated its request within this time loses its place: it may
/// be halted or revoked.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Registration of an assigned partition, until dropped.
#[derive(Debug)]
pub(super) struct PartitionGuard {
    queue: Arc<PassQueue>,
    partition: i32,
}

/// Permit to run a pass.
#[derive(Debug)]
pub(super) struct PassPermit(
    #[expect(dead_code, reason = "held for its drop, never read")] OwnedMutexGuard<()>,
);

impl PassQueue {
    fn partitions(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        let partitions = self.partitions.lock();
        partitions.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(self: &Arc<Self>, partition: i32) -> PartitionGuard {
        self.partitions().insert(partition);
        PartitionGuard {
            queue: Arc::clone(self),
            partition,
        }
    }

    /// Returns a permit, unless another partition has it or is before this one in the
    /// queue. A pass re-enriches the rows of all partitions of the process, so the next
    /// partition has few rows left.
    pub(super) fn try_acquire(&self, partition: i32) -> Option<PassPermit> {
        let mut waiting = self.waiting();
        let lock = Arc::clone(&self.running).try_lock_owned().ok();
        // While a pass is running, the other partitions wait without new requests.
        if lock.is_some() {
            waiting.retain(|(_, requested)| requested.elapsed() < REQUEST_TIMEOUT);
        }
        match waiting.iter_mut().find(|(other, _)| *other == partition) {
            Some((_, requested)) => *requested = Instant::now(),
            None => waiting.push_back((partition, Instant::now())),
        }
        if waiting.front().is_none_or(|(first, _)| *first != partition) {
            return None;
        }
        let lock = lock?;
        waiting.pop_front();
        Some(PassPermit(lock))
    }

    /// Waits until no pass is running.
    pub(super) async fn wait_until_free(&self, partition: i32) {
        drop(self.running.lock().await);
        // Waiting counts as a repeated request.
        let mut waiting = self.waiting();
        if let Some((_, requested)) = waiting.iter_mut().find(|(other, _)| *other == partition) {
            *requested = Instant::now();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(i32, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PartitionGuard {
    fn drop(&mut self) {
        self.queue.partitions().remove(&self.partition);
        let mut waiting = self.queue.waiting();
        waiting.retain(|(other, _)| *other != self.partition);
    }
}

/// The store and the catalogue that a pass uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassContext<'a> {
    pub(super) store: &'a Store,
    pub(super) catalogue: &'a Catalogue,
    /// Generation of the content topic.
    pub(super) generation: u16,
}

/// One pass over the rows of contents that have changed.
#[derive(Debug)]
pub(super) struct Pass {
    _permit: PassPermit,
    /// Content offsets up to which rows are enriched when the pass is finished.
    target: ContentOffsets,
    partitions: Vec<i32>,
    /// Contents still to be looked up.
    contents: Vec<Uuid>,
    /// Contents of the current lookup.
    lookup: Vec<Uuid>,
    /// Event ids of the current lookup.
    window: IdWindow,
    content_limit: ContentLimit,
    /// Rows to be written, sorted by event id if `sorted` is true.
    stale: VecDeque<StaleRow>,
    sorted: bool,
    row_limit: RowLimit,
}

impl Pass {
    /// Returns a pass that has not started. `max_rows` is the maximum number of rows per
    /// statement.
    pub(super) fn new(
        permit: PassPermit,
        guard: &PartitionGuard,
        target: ContentOffsets,
        contents: Vec<Uuid>,
        max_rows: usize,
    ) -> Self {
        let own = BTreeSet::from([guard.partition]);
        let partitions = guard.queue.partitions().union(&own).copied().collect();
        Self {
            _permit: permit,
            target,
            partitions,
            contents,
            lookup: Vec::new(),
            window: IdWindow::default(),
            content_limit: ContentLimit::default(),
            stale: VecDeque::new(),
            sorted: true,
            row_limit: RowLimit::new(max_rows),
        }
    }

    /// Returns the content offsets up to which rows are enriched, once the pass is
    /// finished.
    pub(super) fn finished(&self) -> Option<&ContentOffsets> {
        let is_finished = !self.has_lookups() && self.stale.is_empty();
        is_finished.then_some(&self.target)
    }

    /// Describes the remaining work for the status.
    pub(super) fn describe_remaining(&self) -> String {
        let contents = self.contents.len() + self.lookup.len();
        let mut text = String::from("re-enriching stored rows:");
        if !self.stale.is_empty() {
            text.push_str(&format!(" {} to write", self.stale.len()));
        }
        if contents > 0 {
            let separator = if self.stale.is_empty() { "" } else { "," };
            let plural = if contents == 1 { "" } else { "s" };
            text.push_str(&format!(
                "{separator} {contents} content{plural} to look up"
            ));
        }
        text
    }

    /// Runs one statement. After a fault, the next step takes the same rows, or fewer of
    /// them if the statement was too slow.
    pub(super) async fn step(&mut self, context: PassContext<'_>) -> Result<(), Fault> {
        if self.has_lookups() && self.stale.len() < self.lookup_limit() {
            return self.look_up(context).await;
        }
        self.write(context).await
    }

    fn lookup_limit(&self) -> usize {
        LOOKUP_FACTOR * self.row_limit.max_rows()
    }

    fn has_lookups(&self) -> bool {
        !self.contents.is_empty() || !self.lookup.is_empty()
    }

    async fn look_up(&mut self, context: PassContext<'_>) -> Result<(), Fault> {
        if self.lookup.is_empty() {
            let limit = self.content_limit.contents();
            let remaining = self.contents.len().saturating_sub(limit);
            self.lookup = self.contents.split_off(remaining);
            self.window = IdWindow::default();
        }
        let contents: Vec<(Uuid, u64)> = self
            .lookup
            .iter()
            .filter_map(|id| Some((*id, context.catalogue.get(id)?)))
            .map(|(id, known)| Ok((id, position(context.generation, known.offset)?.get())))
            .collect::<Result<_, Fault>>()?;
        let limit = self.lookup_limit();
        let rows = context.store.stale_rows(StaleRows {
            partitions: &self.partitions,
            contents: &contents,
            after: self.window.after(),
            until: self.window.until(),
            limit,
        });
        let rows = match rows.await {
            Ok(rows) => rows,
            Err(error) => return Err(self.reduce_lookup(context, &error).await),
        };
        match rows.last() {
            Some(last) if rows.len() >= limit => self.window.skip_to(last.event_id),
            _ => {
                if !self.window.advance() {
                    self.lookup.clear();
                    self.content_limit.increase();
                }
            }
        }
        self.sorted &= self.stale.is_empty() || rows.is_empty();
        self.stale.extend(rows);
        crash::point("clickhouse", "looked_up");
        Ok(())
    }

    /// Reduces the next lookup if the last one was too slow. Returns the fault.
    async fn reduce_lookup(&mut self, context: PassContext<'_>, error: &ClickHouseError) -> Fault {
        if is_too_slow(error) {
            self.content_limit.reduce();
            if self.lookup.len() > 1 {
                let limit = self.content_limit.contents().min(self.lookup.len());
                let postponed = self.lookup.split_off(limit);
                self.contents.extend(postponed);
            } else if let Ok(Some(bounds)) = context.store.event_bounds().await {
                self.window.narrow(bounds);
            }
        }
        clickhouse(error)
    }

    async fn write(&mut self, context: PassContext<'_>) -> Result<(), Fault> {
        if !mem::replace(&mut self.sorted, true) {
            let stale = self.stale.make_contiguous();
            stale.sort_unstable();
        }
        let count = self.next_row_count();
        let rows = self.stale.range(..count);
        let mut events: Vec<i64> = rows.clone().map(|row| row.event_id).collect();
        events.dedup();
        let contents: BTreeSet<Uuid> = rows.map(|row| row.content_id).collect();
        let enrichments: Vec<Enrichment> = contents
            .into_iter()
            .filter_map(|id| Some((id, context.catalogue.get(&id)?)))
            .map(|(content_id, known)| {
                Ok(Enrichment {
                    content_id,
                    content_offset: position(context.generation, known.offset)?.get(),
                    content_type: known.content_type.as_deref().map(str::to_owned),
                    length_seconds: known.length_seconds,
                })
            })
            .collect::<Result<_, Fault>>()?;
        crash::point("clickhouse", "re_enriching");
        let started = Instant::now();
        if let Err(error) = context.store.reenrich(&events, &enrichments).await {
            if is_too_slow(&error) {
                self.row_limit.reduce_after_timeout();
            }
            return Err(clickhouse(&error));
        }
        if count >= self.row_limit.rows() {
            self.row_limit.adapt(started.elapsed());
        }
        self.stale.drain(..count);
        crash::point("clickhouse", "re_enriched");
        Ok(())
    }

    /// Returns the number of rows of the next statement. All rows of an event are written
    /// by the same statement.
    fn next_row_count(&self) -> usize {
        let count = self.row_limit.rows().min(self.stale.len());
        let last = count.checked_sub(1).and_then(|last| self.stale.get(last));
        let Some(last) = last else {
            return 0;
        };
        let others = self.stale.range(count..);
        let of_same_event = others.take_while(|row| row.event_id == last.event_id);
        count + of_same_event.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_waiting_partition_gets_the_next_permit() {
        let queue = PassQueue::default();
        let first = queue.try_acquire(0);
        assert!(first.is_some());
        assert!(queue.try_acquire(1).is_none());
        assert!(queue.try_acquire(0).is_none());
        drop(first);
        // The partition that had the last permit must not overtake the other one.
        assert!(queue.try_acquire(0).is_none());
        let second = queue.try_acquire(1);
        assert!(second.is_some());
        drop(second);
        assert!(queue.try_acquire(0).is_some());
    }

    #[test]
    fn a_partition_that_stops_asking_loses_its_place() {
        let queue = PassQueue::default();
        let long_ago = Instant::now().checked_sub(REQUEST_TIMEOUT);
        let long_ago = long_ago.expect("the machine has been up for longer");
        queue.waiting().push_back((1, long_ago));
        assert!(queue.try_acquire(0).is_some());
    }
}
